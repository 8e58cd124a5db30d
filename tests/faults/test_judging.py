"""What is judged beside the journals: the service's books, the lines of SDK devices, the recovery."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults import conservation, run
from tests.faults.app_server import STATES, AppServer
from tests.faults.conservation import audit, errors_of
from tests.faults.plan import Size
from tests.faults.recovery import NEVER_S, Recovery
from tests.faults.sdk_child import LINES, SHOWN, UNFINISHED, Line, read_lines
from tests.faults.sdk_fleet import showings
from tests.faults.told import Pushed, Told
from tests.faults.verdict import Showing, judge


def pushed(push_id: int = 1, *devices: int, asked_at: float = 0.0, ttl_s: int = 3600) -> Pushed:
    return Pushed(
        push_id=push_id,
        devices=frozenset(devices or (1, 2, 3)),
        asked_at=asked_at,
        answered_at=asked_at + 1,
        ttl_s=ttl_s,
    )


def counts(targeted: int, **states: int) -> dict[str, int]:
    return {**dict.fromkeys(STATES, 0), "displayed": 9, "targeted": targeted, **states}


@pytest.mark.parametrize(
    ("ttl_s", "found", "says"),
    [
        (3600, counts(3, received=3), ""),
        (3600, counts(3, received=2, pending=1), ""),
        (3600, counts(3, received=2), "states 2"),
        (3600, counts(3, received=2, failed=2), "states 4"),
        (3600, counts(2, received=2), "for 3 devices"),
        (3600, counts(4, received=4), "for 3 devices"),
        (3600, counts(3, received=2, expired=1), "expired before its time"),
        (3600, None, "knows nothing"),
        (2, counts(3, received=2, expired=1), ""),
        (2, counts(2, received=2), "for 3 devices"),
        (0, counts(1, received=1), ""),
        (0, counts(0), ""),
        (0, counts(4, received=4), "for 3 devices"),
    ],
)
def test_what_the_service_says_of_a_push(
    ttl_s: int, found: dict[str, int] | None, says: str
) -> None:
    errors = list(errors_of(pushed(ttl_s=ttl_s), found))
    assert len(errors) == bool(says)
    assert not says or says in errors[0]


def test_a_recalled_push_may_have_expired_or_not() -> None:
    recalled = pushed()
    recalled.recall_asked = True
    assert not list(errors_of(recalled, counts(3, received=1, recalled=2)))
    assert list(errors_of(recalled, counts(3, received=1, recalled=1)))


class Clerk(AppServer):
    """Says what is on its list, one thing after the other, the last one for ever; None: not now."""

    def __init__(self, **says: Sequence[dict[str, int] | None]) -> None:
        self.says = {int(name.removeprefix("push")): list(each) for name, each in says.items()}

    async def counts(self, push_id: int) -> dict[str, int] | None:
        says = self.says[push_id]
        return says.pop(0) if len(says) > 1 else says[0]


def told_of(*pushes: Pushed) -> Told:
    return Told(pushes={each.push_id: each for each in pushes})


async def test_the_books_are_not_closed_on_one_refusal() -> None:
    """All time is up already when they are opened."""
    whole = counts(3, received=3)
    books = await audit(Clerk(push1=[None, whole]), told_of(pushed()), 0.0)
    assert books == (1, [], [])


async def test_of_what_stays_unknown_the_service_knows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conservation, "_ANSWER_S", 0.0)
    books = await audit(Clerk(push1=[None]), told_of(pushed()), 0.0)
    assert len(books.unlawful) == 1 and not books.pending


async def test_pushes_that_stay_pending_take_no_time_from_the_others() -> None:
    stuck = {f"push{n}": [counts(3, pending=3)] for n in range(1, 9)}
    late = [None, counts(3, received=2, pending=1), counts(3, received=3)]
    books = await audit(
        Clerk(**stuck, push9=late), told_of(*(pushed(push_id) for push_id in range(1, 10))), 1.0
    )
    assert not books.unlawful
    assert len(books.pending) == len(stuck)


# Lines of SDK devices.


def lines(text: str) -> list[Line]:
    """s1 u2: shown 1, then 2 found unfinished."""
    return [Line(word[0], int(word[1:]), float(n)) for n, word in enumerate(text.split())]


@pytest.mark.parametrize(
    ("text", "shown", "duplicates"),
    [
        ("s1 s2 s3", [1, 2, 3], 0),
        # Killed behind the line, before the report was on disk.
        ("s1 s2 u2 s3", [1, 2, 3], 0),
        # Killed between the mark and the line.
        ("s1 u2 s3", [1, 2, 3], 0),
        # Killed again before it was told what became of it.
        ("s1 u2 u2 s3", [1, 2, 3], 0),
        ("s1 s2 s1", [1, 2, 1], 1),
        # It was begun, so the app may have shown it: handing it out again is showing it twice.
        ("s1 u2 s2", [1, 2, 2], 1),
        ("", [], 0),
    ],
)
def test_what_counts_as_shown(text: str, shown: list[int], duplicates: int) -> None:
    found = showings(lines(text))
    assert [line.push_id for line in found] == shown
    told = Told(pushes={n: pushed(n, 7) for n in set(shown)})
    assert judge(told, {7: found}).wrong == ({"duplicates": duplicates} if duplicates else {})


def test_lines_are_read_up_to_the_last_whole_one(tmp_path: Path) -> None:
    assert read_lines(tmp_path) == []
    (tmp_path / LINES).write_text("s 18446744073709551615 1.5\nu 2 3.25\ns 3 4.")
    assert read_lines(tmp_path) == [Line(SHOWN, 2**64 - 1, 1.5), Line(UNFINISHED, 2, 3.25)]


# Recovery.


def test_the_slowest_device_counts_and_only_what_was_pushed_behind_the_mark() -> None:
    recovery = Recovery()
    recovery.mark((1, 2, 3), 10.0)
    told = Told(
        pushes={
            1: pushed(1, 1, 2, 3, asked_at=9.0),
            2: pushed(2, 1, asked_at=11.0),
            3: pushed(3, 1, asked_at=12.0),
            4: pushed(4, 2, asked_at=13.0),
            5: pushed(5, 2, asked_at=14.0, ttl_s=0),
        }
    )
    journals = {
        1: [Showing(1, 10.5), Showing(3, 12.5), Showing(2, 13.0)],
        2: [Showing(1, 10.5), Showing(5, 14.1), Showing(4, 16.0)],
    }
    # 1 after 2.5 s, 2 after 6 s; nobody pushed to 3.
    assert recovery.measure(told, journals) == (6.0, 4.25)
    del journals[2][2]
    assert recovery.measure(told, journals)[0] == NEVER_S
    assert recovery.measure(Told(), journals) == (NEVER_S, NEVER_S)


async def test_the_logs_of_a_run_that_comes_to_no_result_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def deployed(folder: Path, *_: object) -> AsyncIterator[None]:
        (folder / "api.log").write_text("why")
        raise AssertionError("an answer that the interface does not promise")
        yield

    monkeypatch.setattr(run, "deployed", deployed)
    with pytest.raises(AssertionError):
        await run.run_scenario("calm", 1, Size(), lambda _: None, tmp_path)
    assert (tmp_path / "calm-1" / "api.log").read_text() == "why"
