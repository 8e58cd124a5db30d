"""Delays, addresses and verdicts, for each close code and those of later versions."""

import pytest

from client_sdk.reconnect import Address, Backoff, Dial, Ended, Reconnect, Stop, verdict
from protocol.codes import CloseCode, Verdict
from protocol.schema import device_pb2

A, B = Address("a", 1), Address("b", 2)
LOST = Ended()
TOKEN_CODES = (CloseCode.BAD_TOKEN, CloseCode.TOKEN_EXPIRED)


def reconnect(rng: float = 0.5, **backoff: float) -> Reconnect:
    return Reconnect([A, B], Backoff(**backoff), lambda: rng)


def gone(
    code: int, *, registering: bool = False, open_s: float | None = None, **fields: object
) -> Ended:
    return Ended(device_pb2.GoAway(code=code, **fields), registering, open_s)  # type: ignore[arg-type]


def delay(policy: Reconnect, ended: Ended) -> float:
    step = policy.after(ended)
    assert isinstance(step, Dial)
    return step.delay_s


def test_full_jitter_from_the_first_retry_on() -> None:
    assert delay(reconnect(0.0), LOST) == 0
    policy = reconnect(0.5, base_s=2, factor=3, max_s=100)
    assert [delay(policy, LOST) for _ in range(6)] == [1, 3, 9, 27, 50, 50]


def test_a_year_of_failures_does_not_overflow() -> None:
    policy = reconnect(0.5, base_s=1, factor=10, max_s=60)
    assert [delay(policy, LOST) for _ in range(5000)][-1] == 30


@pytest.mark.parametrize("code", [c for c in CloseCode if c.verdict is Verdict.NOW])
def test_now(code: CloseCode) -> None:
    policy = reconnect(0.5, base_s=2)
    assert delay(policy, gone(code)) == 1
    policy = reconnect(0.5, base_s=2)
    assert delay(policy, gone(code, retry_after_ms=8000)) == 4


@pytest.mark.parametrize("code", [c for c in CloseCode if c.verdict is Verdict.LATER])
def test_later(code: CloseCode) -> None:
    policy = reconnect(0.5, base_s=2, factor=2)
    assert [delay(policy, gone(code)) for _ in range(3)] == [1, 2, 4]
    # Not before the time named, and jittered more and more behind it.
    named = gone(code, retry_after_ms=30_000)
    policy = reconnect(0.5, base_s=2, factor=2)
    assert [delay(policy, named) for _ in range(3)] == [31, 32, 34]


@pytest.mark.parametrize("registering", [False, True])
@pytest.mark.parametrize("code", [c for c in CloseCode if c.verdict is Verdict.NEVER])
def test_never(code: CloseCode, registering: bool) -> None:
    step = reconnect().after(gone(code, registering=registering, detail="why"))
    if code in TOKEN_CODES and not registering:
        assert step == Dial(0.5, drop_token=True)
    else:
        assert step == Stop(code, "why")


@pytest.mark.parametrize("code", TOKEN_CODES)
def test_refused_tokens_are_not_replaced_in_a_hurry(code: CloseCode) -> None:
    policy = reconnect(0.5)
    delays = [delay(policy, gone(code, retry_after_ms=10)) for _ in range(3)]
    assert delays == [0.51, 1.01, 2.01]


def test_every_code_goes_by_its_hundred() -> None:
    for code in CloseCode:
        assert verdict(code) is code.verdict
    assert verdict(4077) is Verdict.NOW
    assert verdict(4177) is Verdict.LATER
    assert verdict(4277) is Verdict.NEVER
    for foreign in (0, 1000, 3999, 4300, 2**32 - 1):
        assert verdict(foreign) is Verdict.LATER


def test_wrong_clock_is_tried_once_more_and_then_slowly() -> None:
    policy = reconnect(0.5, base_s=2)
    wrong = gone(CloseCode.WRONG_CLOCK, registering=True)
    assert [delay(policy, wrong) for _ in range(4)] == [1, 1, 2, 4]
    delay(policy, Ended(open_s=1000.0))
    assert delay(policy, wrong) == 1


def test_attempts_start_over_after_a_good_connection_only() -> None:
    policy = reconnect(0.5, base_s=1, factor=2)
    assert [delay(policy, LOST) for _ in range(3)] == [0.5, 1, 2]
    assert delay(policy, Ended(open_s=7.9)) == 4
    assert delay(policy, Ended(open_s=15.9)) == 8
    assert delay(policy, Ended(open_s=32.0)) == 0.5


def test_addresses_in_turn_while_none_lets_us_in() -> None:
    policy = reconnect()
    assert policy.next_address() == A
    policy.after(LOST)
    assert policy.next_address() == B
    policy.after(Ended(open_s=1.0))
    assert policy.next_address() == B
    policy.after(gone(CloseCode.EDGE_FULL))
    assert policy.next_address() == A


def test_a_named_address_is_tried_once() -> None:
    policy = reconnect()
    policy.after(gone(CloseCode.GOING_AWAY, open_s=9.0, address="[::1]:7"))
    assert policy.next_address() == Address("::1", 7)
    policy.after(gone(CloseCode.GOING_AWAY, open_s=9.0, address="no address"))
    assert policy.next_address() == A


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:0", "host:65536", "h:x", "h:²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


def test_backoff_from_the_wire() -> None:
    assert Backoff.from_wire(device_pb2.Backoff()) == Backoff()
    told = device_pb2.Backoff(base_ms=500, factor=0.5, max_ms=100)
    assert Backoff.from_wire(told) == Backoff(0.5, 1.0, 0.5)


@pytest.mark.parametrize("factor", [1.0, 2.0, 1e5, 3e38, float("inf")])
def test_any_factor_of_a_server_has_a_bound(factor: float) -> None:
    told = Backoff.from_wire(device_pb2.Backoff(base_ms=500, factor=factor, max_ms=9_000))
    bounds = [told.bound_s(attempt) for attempt in (0, 1, 70, 5_000)]
    assert bounds[0] == 0.5
    assert bounds == sorted(bounds) and bounds[-1] <= 9.0
