"""What is lost, twice, or where it should not be: by what devices have shown."""

import pytest

from loadtest.engine.book import Accepted, Book, Outcome, has_ended, judged

NOW = 100.0


def counts(**said: int) -> dict[str, int]:
    states = ("targeted", "received", "pending", "expired", "failed", "recalled", "replaced",
              "overflowed", "stopped")  # fmt: skip
    return {**dict.fromkeys(states, 0), **said}


def book(*pushes: Accepted) -> Book:
    made = Book()
    for push in pushes:
        made.note(push)
    return made


def single(push_id: int, device: int, until: float = NOW + 1) -> Accepted:
    return Accepted(push_id, 0, device, 0, until)


def audience(push_id: int, known: int = 0, until: float = NOW + 1) -> Accepted:
    return Accepted(push_id, 1, None, known, until)


def judge(
    pushes: Book,
    shown: dict[int, list[int]],
    told: dict[int, dict[str, int]] | None = None,
    unanswered: int = 0,
) -> Outcome:
    shown_counts = {push: len(devices) for push, devices in shown.items()}
    return judged(pushes, shown_counts, shown, told or {}, unanswered, NOW)


def test_a_book_keeps_what_it_is_told() -> None:
    pushes = [single(1, (1 << 64) - 1), audience((1 << 64) - 1, known=7), single(3, 0)]
    made = book(*pushes)
    assert list(made) == pushes and len(made) == 3 and made.audiences == 1


def test_open_is_what_somebody_may_still_have_to_get() -> None:
    made = book(single(1, 10), single(2, 11), audience(3), audience(4))
    assert [push.push_id for push in made.open({1: 1, 3: 5}, ended=[4])] == [2, 3]


def test_singles() -> None:
    made = book(single(1, 10), single(2, 11), single(3, 12))
    outcome = judge(made, {1: [10], 2: [99]})
    assert (outcome.targeted, outcome.shown, outcome.lost, outcome.strays) == (3, 1, 2, 1)
    assert [suspect.push.push_id for suspect in outcome.suspects] == [2, 3]


@pytest.mark.parametrize("state", ["expired", "failed", "stopped", "replaced"])
def test_a_single_push_that_ended_otherwise_is_not_lost(state: str) -> None:
    outcome = judge(book(single(1, 10)), {}, {1: counts(targeted=1, **{state: 1})})
    assert outcome.lost == 0 and outcome.expired == (state == "expired")


def test_pending_is_lost_unless_its_time_is_over() -> None:
    told = {1: counts(targeted=1, pending=1), 2: counts(targeted=9, received=7, pending=2)}
    outcome = judge(book(single(1, 10), audience(2)), {2: [0] * 7}, told)
    assert outcome.lost == 3 and outcome.expired == 0
    assert [suspect.counts for suspect in outcome.suspects] == [told[1], told[2]]
    over = book(single(1, 10, until=NOW), audience(2, until=NOW))
    outcome = judge(over, {2: [0] * 7}, told)
    assert outcome.lost == 0 and outcome.expired == 3 and outcome.suspects == []


def test_audiences() -> None:
    told = {1: counts(targeted=10, received=8, expired=1, failed=1)}
    outcome = judge(book(audience(1, known=12)), {1: [0] * 8}, told)
    assert (outcome.targeted, outcome.shown, outcome.expired) == (10, 8, 1)
    assert (outcome.lost, outcome.untargeted, outcome.unbalanced_pushes) == (0, 2, 0)
    received_and_not_shown = judge(book(audience(1)), {1: [0] * 7}, told)
    assert received_and_not_shown.lost == 1
    too_many = judge(book(audience(1)), {1: [0] * 11}, told)
    assert too_many.strays == 1 and too_many.lost == 0
    unbalanced = judge(book(audience(1)), {1: [0] * 8}, {1: counts(targeted=10, received=8)})
    assert unbalanced.unbalanced_pushes == 1


def test_unknown_ids_are_duplicates_unless_a_request_had_no_answer() -> None:
    shown = {1: [10], 77: [10, 11], 78: [10]}
    assert judge(book(single(1, 10)), shown).duplicates == 3
    assert judge(book(single(1, 10)), shown, unanswered=1).duplicates == 1
    assert judge(book(single(1, 10)), shown, unanswered=2).duplicates == 0


def test_suspects_are_bounded() -> None:
    outcome = judge(book(*(single(push, 1) for push in range(1, 100))), {})
    assert outcome.lost == 99 and len(outcome.suspects) == 20


def test_has_ended() -> None:
    assert has_ended(counts(targeted=2, received=2))
    assert not has_ended(counts(targeted=2, pending=1))
