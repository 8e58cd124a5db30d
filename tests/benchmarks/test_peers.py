"""The comparison itself: each wire against its real server where that is installed, and what is pure."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from loadtest import resp
from loadtest.control import ChildFailed
from loadtest.wire import message_frame
from protocol.codes import Kind
from protocol.frames import encode
from protocol.schema import device_pb2
from tests.benchmarks.peers import __main__ as command
from tests.benchmarks.peers import wires
from tests.benchmarks.peers.measure import FloorBeside, Round, fanout, floor_beside, measure
from tests.benchmarks.peers.servers import PEERS, Peer, ServerFailed
from tests.benchmarks.peers.subscribers import Crowd
from tests.benchmarks.peers.table import HEAD, markdown, to_columba
from tests.benchmarks.peers.wires import Heard, Wire, WireError

CONNECTIONS = 50


# Real servers


@pytest.fixture(scope="module")
def beside() -> Iterator[FloorBeside]:
    with floor_beside(CONNECTIONS) as floor:
        yield floor


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_small_run(peer: Peer, beside: FloorBeside) -> None:
    if not peer.installed():
        pytest.skip(f"{peer.title} is not installed")
    lines: list[str] = []
    # That each message arrives once at each subscriber is checked in every round.
    told = measure(peer, CONNECTIONS, 1, beside, lines.append, idle_s=0.2)
    assert set(told) == {
        "version", "settings", "load", "in_flight", "connects_per_s", "connects_per_s_few",
        "connect_cpu_us", "rss_empty", "bytes_per_subscriber", "front_bytes_per_subscriber",
        "pss_bytes_per_subscriber", "bytes_per_subscriber_after_fanout", "idle_cpu_share",
        "one", "burst",
    }  # fmt: skip
    assert told["version"][0].isdigit()
    assert told["connects_per_s"] > 0 < told["connects_per_s_few"]
    assert told["rss_empty"] > 1 << 20
    for part in ("one", "burst"):
        # So few messages are lost in what a server uses when idle: CPU may come out as anything.
        assert told[part]["wall_ms"] > 0 < told[part]["floor_cpu_us"]
        assert (told[part]["receipt_cpu_us"] != 0) == (peer.name == "columba")
    assert any("round 1 of 1" in line for line in lines)


def test_a_subscriber_that_cannot_connect_is_told() -> None:
    with (
        Crowd("redis", ("127.0.0.1", 1), "127.0.4.1") as crowd,
        pytest.raises(ChildFailed, match="could not connect"),
    ):
        crowd.dial(range(1), 1)
        crowd.wait("ready", 1, 5)


# Wires


def _publish(payload: bytes) -> bytes:
    return wires.mqtt_packet(0x30, wires.mqtt_text("bench") + payload)


COLUMBA = wires.Columba("demo", "key", "seed")
MESSAGE = message_frame(7, {}, body="coo")
SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$5\r\nbench\r\n:1\r\n"
SAID: dict[str, tuple[Wire, bytes, Heard]] = {
    "bare": (wires.Bare(3), b"coocoo", Heard(6, messages=2)),
    "redis": (
        wires.Redis(),
        SUBSCRIBED + resp.command("message", "bench", "coo") * 2,
        Heard(0, ready=True, messages=2),
    ),
    "mqtt": (
        wires.Mqtt(),
        b"\x20\x02\0\0\x90\x03\0\x01\0" + _publish(b"coo") + _publish(b"." * 200),
        Heard(0, ready=True, messages=2),
    ),
    "nats": (
        wires.Nats(),
        b"INFO {}\r\nPONG\r\nPING\r\nMSG bench 1 3\r\ncoo\r\nMSG bench 1 6\r\nPI\r\nNG\r\n",
        Heard(0, ready=True, messages=2, reply=b"PONG\r\n"),
    ),
    "nchan": (
        wires.Nchan(),
        b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n\x81\x03coo\x89\x00\x81\x7e\0\xc8"
        + b"." * 200,
        Heard(0, ready=True, messages=2, reply=b"\x8a\x80\0\0\0\0"),
    ),
    "columba": (
        COLUMBA,
        encode(Kind.WELCOME) + MESSAGE * 2 + encode(Kind.RECEIPT_ACK, b"\x08\x01"),
        Heard(0, ready=True, messages=2, pushes=(7, 7), acked=1),
    ),
}


def test_every_wire_is_tried() -> None:
    assert SAID.keys() == wires.WIRES.keys()
    assert {peer.wire for peer in PEERS} | {"bare"} == wires.WIRES.keys()


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
def test_a_stream_means_the_same_however_it_is_cut(name: str, step: int) -> None:
    wire, stream, expected = SAID[name]
    assert _hear(wire, stream, step) == expected._replace(used=len(stream))


def _hear(wire: Wire, stream: bytes, step: int) -> Heard:
    total, rest = Heard(0), b""
    for at in range(0, len(stream), step):
        rest += stream[at : at + step]
        heard = wire.hear(rest)
        rest = rest[heard.used :]
        total = Heard(
            total.used + heard.used,
            total.ready or heard.ready,
            total.messages + heard.messages,
            total.reply + heard.reply,
            total.pushes + heard.pushes,
            total.acked + heard.acked,
        )
    assert not rest
    return total


@pytest.mark.parametrize(
    ("wire", "stream"),
    [
        (wires.Redis(), b"-NOPERM no\r\n"),
        (wires.Mqtt(), b"\x20\x02\0\x05"),
        (wires.Mqtt(), b"\x90\x03\0\x01\x80"),
        (wires.Nats(), b"-ERR 'maximum connections exceeded'\r\n"),
        (wires.Nchan(), b"HTTP/1.1 403 Forbidden\r\n\r\n"),
        (wires.Nchan(), b"\x88\x02\x03\xe8"),
        (COLUMBA, encode(Kind.GOAWAY, b"")),
    ],
)
def test_a_refusal_is_an_error(wire: Wire, stream: bytes) -> None:
    with pytest.raises(WireError):
        wire.hear(stream)


def test_a_report_has_a_receipt_for_each_push() -> None:
    frame = COLUMBA.report(3, [7, 8])
    told = device_pb2.Receipts.FromString(frame[2:])
    assert frame[0] == Kind.RECEIPTS
    assert told.seq == 3 and [each.push_id for each in told.receipts] == [7, 8]


# Figures


def test_medians_and_their_ratios() -> None:
    pairs = [
        (Round(10.0, 0.1), Round(20.0, 0.1, 15.0, 30.0)),
        (Round(20.0, 0.2), Round(30.0, 0.3, 25.0, 40.0)),
        (Round(5.0, 0.1), Round(5.0, 0.4, 4.0, 50.0)),
    ]
    assert fanout(pairs) == {
        "cpu_us": 20.0, "front_cpu_us": 15.0, "receipt_cpu_us": 40.0, "wall_ms": 300.0,
        "floor_cpu_us": 10.0, "floor_wall_ms": 100.0, "cpu_to_floor": 2.0, "front_cpu_to_floor": 1.5,
        "wall_to_floor": 3.0,
    }  # fmt: skip


def _figures(times: float) -> dict[str, Any]:
    part = {
        "cpu_us": 10.0 * times, "front_cpu_us": 8.0 * times, "wall_ms": 100.0 * times,
        "receipt_cpu_us": 0.0, "floor_cpu_us": 5.0, "floor_wall_ms": 50.0 + times,
        "cpu_to_floor": 2.0 * times, "front_cpu_to_floor": 1.6 * times, "wall_to_floor": 2.0 * times,
    }  # fmt: skip
    return {
        "version": "1.2", "connects_per_s": 1000.0 * times, "connects_per_s_few": 500.0 * times,
        "connect_cpu_us": 70.0 * times,
        "bytes_per_subscriber": 300.0 * times, "front_bytes_per_subscriber": 200.0 * times,
        "one": part, "burst": part,
    }  # fmt: skip


def test_ratios_to_columba() -> None:
    told = {"columba": _figures(1.0), "redis": _figures(1.5)}
    assert to_columba(told) == {
        "redis": dict.fromkeys(
            (
                "bytes_per_subscriber", "connects_per_s", "connects_per_s_few",
                "connect_cpu_us", "one_cpu", "one_wall", "burst_cpu", "burst_wall",
            ),
            1.5,
        )
    }  # fmt: skip
    assert to_columba({"redis": _figures(1.5)}) == {}
    told["columba"]["bytes_per_subscriber"] = 0.0
    assert "bytes_per_subscriber" not in to_columba(told)["redis"]


def test_the_table() -> None:
    titles = {"columba": "Columba", "redis": "Redis pub/sub"}
    text = markdown({"columba": _figures(1.0), "redis": _figures(2.0)}, titles, 9000.0)
    lines = text.splitlines()
    assert [line.count("|") for line in lines] == [len(HEAD) + 1] * 6
    assert lines[2].startswith("| Columba 1.2 | 300 B | 1,000 | 70 us | 10.0 us | 2.00 | 100 ms |")
    assert lines[3].startswith("| of it the edge | 200 B |  |  | 8.0 us | 1.60 |")
    assert lines[4].startswith("| Redis pub/sub 1.2 | 600 B | 2,000 |")
    assert lines[5].startswith(
        "| the floor: bare write(2) |  | 9,000 |  | 5.0 us | 1 | 51 to 52 ms"
    )
    assert len(markdown({}, titles, 9000.0).splitlines()) == 2


def test_what_is_missing_or_fails_is_told_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: object) -> Any:
        raise ServerFailed("it is not there: because")

    missing = PEERS[0]._replace(name="missing", title="Missing", installed=lambda: False)
    failing = PEERS[0]._replace(name="failing", title="Failing", started=fails)
    monkeypatch.setattr(command, "PEERS", (missing, failing))
    monkeypatch.setattr("sys.argv", ["peers", "--connections", "2", "--rounds", "1"])
    assert command.main() == 1
    out, err = capsys.readouterr()
    assert "not installed: Missing" in out and "failed: Failing: ServerFailed: it is" in out
    assert "Missing: not installed" in err
    told = json.loads(out.splitlines()[-1])
    assert told["not_installed"] == ["missing"] and list(told["failed"]) == ["failing"]
    assert told["servers"] == told["to_columba"] == {}
    monkeypatch.setattr("sys.argv", ["peers", "--connections", "2", "--only", "missing", "--json"])
    assert command.main() == 0
    out, _ = capsys.readouterr()
    assert json.loads(out)["not_installed"] == ["missing"]
