"""One table of errors, and a page that says the same."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from gateway.api.errors import MEANINGS, ApiError, Errno
from gateway.api.push_route import as_api_error
from gateway.api.quota import DAY_MS, Excess
from gateway.api.refused import Busy, Exceeded, IdempotencyConflict, Unavailable
from gateway.config import Config
from gateway.metrics import HELP
from gateway.store.errors import StoreUnavailable

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "http-api.md").read_text()


def rows(first: str) -> list[list[str]]:
    """Cells of the table rows whose first cell matches."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("|")
    ]
    return [cells for cells in found if re.fullmatch(first, cells[0])]


def test_every_errno_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Errno)
    assert list(Errno) == sorted(Errno)


def test_the_page_repeats_the_table() -> None:
    told = {int(errno): (status, advice) for errno, status, advice in rows(r"\d{5}")}
    assert told == {
        int(errno): (m.status, m.advice + (" (retry)" if m.retry_ms else ""))
        for errno, m in MEANINGS.items()
    }


def test_the_page_repeats_the_metrics() -> None:
    told = {name.strip("`"): text for name, _, text in rows(r"`columba_\w+`")}
    assert told == HELP


@pytest.mark.parametrize("page", ["http-api.md", "operations.md"])
def test_the_settings_that_pages_name_are_there(page: str) -> None:
    text = (DOCS / page).read_text()
    named = set(re.findall(r"`((?:api|dispatch|edge|service|store)\.[a-z_]+)`", text))
    there = {
        f"{section.name}.{field.name}"
        for section in msgspec.structs.fields(Config)
        for field in msgspec.structs.fields(section.type)
    }
    assert len(named) >= 8 and named <= there


@pytest.mark.parametrize("errno", Errno)
def test_shape(errno: Errno) -> None:
    error = ApiError(errno, trace_id="t")
    body = json.loads(error.body())["error"]
    assert body["code"] == errno // 100 and body["errno"] == errno and body["trace_id"] == "t"
    assert body["message"] == MEANINGS[errno].advice
    retry_ms = MEANINGS[errno].retry_ms
    assert (errno // 100 in (429, 503)) == bool(retry_ms)
    if retry_ms:
        assert 0.6 * retry_ms <= body["retry"]["after_ms"] <= 1.4 * retry_ms
        assert error.headers() == {"retry-after": str(-(-body["retry"]["after_ms"] // 1000))}


def test_those_refused_together_come_back_spread_out() -> None:
    assert len({ApiError(Errno.BUSY).retry_ms for _ in range(100)}) > 50


def test_who_is_told_a_time_is_not_told_to_come_earlier() -> None:
    short = [ApiError(Errno.APP_RATE, retry_ms=2000).retry_ms for _ in range(100)]
    long = [ApiError(Errno.APP_QUOTA, retry_ms=DAY_MS).retry_ms for _ in range(100)]
    assert min(short) >= 2000 and max(short) <= 2800 and len(set(short)) > 30
    assert min(long) >= DAY_MS and max(long) <= DAY_MS + 60_000 and len(set(long)) > 50


@pytest.mark.parametrize(
    ("excess", "errno", "said"),
    [
        (Excess("rate", 100, 500), Errno.APP_RATE, "(100 pushes a second are allowed)"),
        (Excess("day", 250, 90_000), Errno.APP_QUOTA, "(250 pushes a day are allowed)"),
    ],
)
def test_what_who_pushes_too_much_is_told(excess: Excess, errno: Errno, said: str) -> None:
    error = as_api_error(Exceeded(excess))
    assert error.errno == errno and said in error.message and error.retry_ms >= excess.retry_ms
    assert error.headers() == {"retry-after": str(-(-error.retry_ms // 1000))}


def test_exceptions_become_answers() -> None:
    assert as_api_error(Busy()).errno == Errno.BUSY
    assert as_api_error(StoreUnavailable("x")).errno == Errno.STORE_AWAY
    away = as_api_error(Unavailable(7))
    assert (away.errno, away.trace_id) == (Errno.STORE_AWAY, "7")
    conflict = as_api_error(IdempotencyConflict(9))
    assert (conflict.errno, conflict.trace_id) == (Errno.CONFLICT, "9")


def test_a_defect_is_logged_under_its_trace_id_and_tells_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = as_api_error(RuntimeError("the secret text"))
    assert error.errno == Errno.INTERNAL and b"secret" not in error.body()
    assert error.trace_id in capsys.readouterr().out
