"""Configuration and secrets: sources, their order, what is refused and in which words."""

import base64
import io
import json
import logging
import os
import stat
from pathlib import Path

import pytest
import structlog

from gateway import logs, secretfiles
from gateway.config import Config
from gateway.config_sources import (
    LEVELS,
    ConfigError,
    Flag,
    check_exposure,
    load,
    rows,
    set_flag,
    shown,
)
from gateway.secretfiles import Secrets, SecretsError, load_or_create


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    loaded = load(None, {}, directory=tmp_path)
    assert loaded.config == Config()
    assert set(loaded.sources.values()) == {"default"}
    assert len(loaded.sources) == len(list(rows(loaded)))


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[edge]\ncount = 1\ngather_count = 1\ngather_ms = 1\n")
    environ = {"COLUMBA_EDGE_COUNT": "2", "COLUMBA_EDGE_GATHER_COUNT": "2"}
    loaded = load(file, environ, [Flag("edge.count", "3", "--edges")])
    edge = loaded.config.edge
    assert (edge.count, edge.gather_count, edge.gather_ms) == (3, 2, 1.0)
    assert loaded.sources["edge.count"] == "flag --edges"
    assert loaded.sources["edge.gather_count"] == "environment COLUMBA_EDGE_GATHER_COUNT"
    assert loaded.sources["edge.gather_ms"] == f"file {file}"


def test_a_later_flag_wins() -> None:
    flags = [set_flag("edge.count=1"), set_flag("edge.count=2")]
    assert load(None, {}, flags).config.edge.count == 2


def test_columba_toml_of_the_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "columba.toml").write_text('[service]\ndata_dir = "here"\n')
    loaded = load(None, {}, directory=tmp_path)
    assert loaded.config.service.data_dir == "here"
    assert load(written(tmp_path, ""), {}, directory=tmp_path).config == Config()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("edge.count", "0", 0),
        ("edge.gather_ms", "0", 0.0),
        ("edge.drain_s", "0", 0.0),
        ("api.default_ttl_s", "0", 0),
        ("edge.backoff_factor", "1.5", 1.5),
        ("store.lease_s", " 2 ", 2.0),
        ("edge.allow_plaintext", "true", True),
        ("edge.allow_plaintext", "0", False),
        ("store.url", "", ""),
        ("store.url", "redis://a:1,b:2", "redis://a:1,b:2"),
        ("store.replicas", "1", 1),
        ("service.data_dir", "7", "7"),
        ("edge.listen", "[::1]:7070", "[::1]:7070"),
        ("service.partitions", "1024", 1024),
    ],
)
def test_text_becomes_the_type_of_its_field(key: str, text: str, value: object) -> None:
    section, _, name = key.partition(".")
    variable = "COLUMBA_" + key.replace(".", "_").upper()
    for loaded in (load(None, {variable: text}), load(None, {}, [set_flag(f"{key}={text}")])):
        found = getattr(getattr(loaded.config, section), name)
        assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("edge.count", "-1", "edge.count (flag --set edge.count) is '-1'; it must be a whole "),
        ("edge.count", "two", "a whole number at least 0"),
        ("edge.count", "1.5", "a whole number at least 0"),
        ("edge.count", "", "a whole number at least 0"),
        ("edge.gather_count", "0", "a whole number at least 1"),
        ("service.partitions", "2000", "a whole number at least 1 and at most 1024"),
        ("store.lease_s", "0", "a number above 0"),
        ("store.replicas", "-1", "a whole number at least 0"),
        ("store.lease_s", "nan", "a number above 0"),
        ("store.lease_s", "inf", "a number above 0"),
        ("edge.descriptors_high", "1", "a number above 0 and below 1"),
        ("edge.allow_plaintext", "perhaps", "true or false"),
        ("service.log_level", "loud", "one of debug, info, warning, error"),
        ("service.data_dir", "", "a directory"),
        ("edge.listen", "7070", "host:port"),
        ("api.listen", "localhost:", "host:port"),
        ("api.listen", "localhost:70000", "host:port"),
        ("store.url", "http://x", "redis://host:port/db, unix:///path or empty"),
        ("edge.heartbeat_min_s", "601", "at most edge.heartbeat_max_s, which is 600 (default)"),
        ("edge.descriptors_low", "0.99", "at most edge.descriptors_high"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(key: str, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, [set_flag(f"{key}={text}")])
    message = str(caught.value)
    assert told in message and message.startswith(key) and "\n" not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[edge]\ncuont = 1\n", "edge.cuont (file "),
        ("[edge]\ncuont = 1\n", "did you mean edge.count?"),
        ("[egde]\ncount = 1\n", "egde.count (file "),
        ("count = 1\n", "count stands outside a section"),
        ('[edge]\ncount = "1"\n', "is '1'; it must be a whole number"),
        ("[edge]\ncount = true\n", "is True; it must be a whole number"),
        ("[store]\nlease_s = nan\n", "it must be a number above 0"),
        ("[edge]\nallow_plaintext = 1\n", "it must be true or false"),
        ("[edge\n", "is not TOML"),
        ("[edge.listen]\nx = 1\n", "it must be text"),
    ],
)
def test_what_a_file_cannot_say(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), {})
    assert told in str(caught.value) and "some.toml" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml", {})


def test_an_unknown_variable_is_an_error_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean COLUMBA_EDGE_LISTEN"):
        load(None, {"COLUMBA_EDGE_LISTNE": "x"})


@pytest.mark.parametrize(
    "variable",
    [
        "COLUMBA_MASTER_KEYS",
        "COLUMBA_API_KEY",
        "COLUMBA_SERVICE_HOST",
        "COLUMBA_SERVICE_PORT_DEVICES",
        "COLUMBA_PORT",
        "COLUMBA_PORT_7070_TCP_ADDR",
        "COLUMBA_EDGE_SERVICE_HOST",
        "COLUMBA_EDGE_PORT_7070_TCP",
        "OTHER_EDGE_COUNT",
    ],
)
def test_variables_of_others_are_left_alone(variable: str) -> None:
    assert load(None, {variable: "x"}).config == Config()


@pytest.mark.parametrize("text", ["edge.count", "edge.nothing=1", "=1"])
def test_a_wrong_set(text: str) -> None:
    with pytest.raises(ConfigError):
        load(None, {}, [set_flag(text)])


def test_a_value_may_hold_equals_signs() -> None:
    url = "redis://h/0?client_name=a"
    assert load(None, {}, [set_flag(f"store.url={url}")]).config.store.url == url


@pytest.mark.parametrize(("listen", "fine"), [("127.0.0.1:1", True), ("0.0.0.0:1", False)])
def test_plain_text_beyond_loopback_is_asked_for_by_name(listen: str, fine: bool) -> None:
    loaded = load(None, {}, [Flag("edge.listen", listen, "--device-listen")])
    check_exposure(loaded, "api")
    if fine:
        check_exposure(loaded, "edge")
        return
    with pytest.raises(ConfigError, match=r"edge\.listen \(flag --device-listen\).*plain"):
        check_exposure(loaded, "edge")
    asked = load(None, {"COLUMBA_EDGE_ALLOW_PLAINTEXT": "1"}, [set_flag(f"edge.listen={listen}")])
    check_exposure(asked, "edge")


def test_rows_tell_the_reasons() -> None:
    reasons = {key: reason for key, _, _, reason in rows(load(None, {}))}
    assert reasons["edge.count"] == "Edge processes on this machine; 0 = one a core."
    # One text for the fields above it.
    assert reasons["edge.heartbeat_min_s"] == reasons["edge.heartbeat_max_s"] != ""


def test_a_password_is_not_shown() -> None:
    for url in ("redis://user:hidden@host:1/0", "redis://:hidden@host:1,host:2"):
        assert "hidden" not in str(shown("store.url", url))
    with pytest.raises(ConfigError) as caught:
        load(None, {"COLUMBA_STORE_URL": "http://user:hidden@host"})
    assert "hidden" not in str(caught.value)


# Secrets.
KEY = base64.b64encode(b"k" * 32).decode()
OTHER = base64.b64encode(b"o" * 32).decode()


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    made = load_or_create(tmp_path, {})
    path = tmp_path / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(made.master_keys) == [made.current] == [1]
    assert len(made.master_keys[1]) == len(made.rpc_secret) == 32
    assert made.master_keys[1] != made.rpc_secret
    assert load_or_create(tmp_path, {}) == made
    assert os.listdir(tmp_path) == ["secrets.json"]


def test_a_draft_of_another_process_loses(tmp_path: Path) -> None:
    made = load_or_create(tmp_path, {})
    secretfiles._create(tmp_path / "secrets.json")
    assert load_or_create(tmp_path, {}) == made


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    load_or_create(tmp_path, {})
    (tmp_path / "secrets.json").chmod(0o640)
    with pytest.raises(SecretsError, match=r"secrets\.json has mode 0640.*chmod 600"):
        load_or_create(tmp_path, {})


def test_the_environment_wins_variable_by_variable(tmp_path: Path) -> None:
    both = {"COLUMBA_MASTER_KEYS": f"1:{KEY},7:{OTHER}", "COLUMBA_RPC_SECRET": KEY}
    assert load_or_create(tmp_path, both) == Secrets({1: b"k" * 32, 7: b"o" * 32}, 7, b"k" * 32)
    assert not list(tmp_path.iterdir())
    made = load_or_create(tmp_path, {})
    mixed = load_or_create(tmp_path, {"COLUMBA_MASTER_KEYS": f"3:{KEY}"})
    assert mixed == Secrets({3: b"k" * 32}, 3, made.rpc_secret)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"master_keys": {}, "current": 1, "rpc_secret": "x"}',
        json.dumps({"master_keys": {"1": KEY}, "current": 2, "rpc_secret": KEY}),
        json.dumps({"master_keys": {"0": KEY}, "current": 0, "rpc_secret": KEY}),
        json.dumps({"master_keys": {"256": KEY}, "current": 256, "rpc_secret": KEY}),
        json.dumps({"master_keys": {"1": KEY[:-8]}, "current": 1, "rpc_secret": KEY}),
        json.dumps({"master_keys": {"1": KEY}, "current": 1}),
    ],
)
def test_a_damaged_file_is_told_without_its_content(tmp_path: Path, content: str) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SecretsError) as caught:
        load_or_create(tmp_path, {})
    assert "secrets.json" in str(caught.value) and KEY[:20] not in str(caught.value)
    assert path.read_text() == content


@pytest.mark.parametrize("text", ["", "1", f"x:{KEY}", f"0:{KEY}", "1:short", f"1:{KEY}é"])
def test_a_wrong_variable_is_told_without_its_value(tmp_path: Path, text: str) -> None:
    with pytest.raises(SecretsError) as caught:
        load_or_create(tmp_path, {"COLUMBA_MASTER_KEYS": text})
    assert "COLUMBA_MASTER_KEYS" in str(caught.value) and KEY[:20] not in str(caught.value)


def test_secrets_show_themselves_nowhere() -> None:
    text = f"{Secrets({1: b'k' * 32}, 1, b'r' * 32)!r}"
    assert "kkk" not in text and "rrr" not in text and KEY not in text
    assert secretfiles.scrubbed({"COLUMBA_RPC_SECRET": "x", "PATH": "/bin"}) == {"PATH": "/bin"}


# Logs.
def test_log_lines_are_json_beyond_a_terminal() -> None:
    stream = io.StringIO()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        logs.configure("info", role="edge-1", stream=stream)
        logs.get(part="x").info("ready", pid=7)
        logs.get().debug("too fine")
        logging.getLogger("library").warning("of %s", "others")
        logging.getLogger("library").info("chatter")
        said = stream.getvalue()
        stream.close()
        logs.get().info("nobody reads")  # and nothing is raised
        lines = [json.loads(line) for line in said.splitlines()]
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert [line.pop("timestamp")[:2] for line in lines] == ["20", "20"]
    assert lines == [
        {"level": "info", "role": "edge-1", "event": "ready", "part": "x", "pid": 7},
        {"level": "warning", "role": "edge-1", "event": "of others", "logger": "library"},
    ]


def test_levels_of_logs_and_configuration_are_the_same() -> None:
    assert tuple(logs.LEVELS) == LEVELS
