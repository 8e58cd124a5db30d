"""The probing, walked through completely for small constants."""

import itertools

import pytest

from client_sdk.heartbeat import (
    MAX_NETWORKS,
    PROVEN_AFTER,
    STABLE_FOR_MS,
    Network,
    Networks,
    Prober,
    Probing,
)
from protocol.schema import device_pb2

MARS = Probing()
SMALL = Probing(start_s=10, step_s=5, max_s=22, successes=2, failures=2, back_s=2)


def network(interval_s: int = 210, *, stable: bool = False, changed_ms: int = 0) -> Network:
    return Network("wifi", interval_s=interval_s, stable=stable, changed_ms=changed_ms)


def after(start: Network, results: str, probing: Probing = MARS) -> tuple[int, bool]:
    """(interval, stable) after successes (+), failures (-) and weeks that pass (w)."""
    now_ms = 0
    for result in results:
        if result == "w":
            now_ms += STABLE_FOR_MS
        elif result == "+":
            start.succeeded(probing, now_ms)
        else:
            start.failed(probing, now_ms)
    return start.interval_s, start.stable


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("", (210, False)),
        ("++++", (210, False)),
        ("+++++", (270, False)),
        ("++++-+++++", (270, False)),  # successes in a row
        ("+" * 5 * 6, (570, False)),
        ("+" * 5 * 7, (580, True)),  # the cap
        ("+" * 5 * 9, (580, True)),
        ("+" * 10 + "-", (330, False)),
        ("+" * 10 + "-+-", (330, False)),  # failures in a row
        ("+" * 10 + "--", (250, True)),
        ("+" * 10 + "--" + "+" * 20, (250, True)),
        ("+" * 10 + "--" + "--", (210, False)),  # what held no longer does
        ("+" * 5 + "--", (210, True)),
        ("--" * 3, (210, False)),  # nothing shorter is left
        ("+" * 10 + "--" + "w+", (270, False)),  # a week later a little more
        ("+" * 10 + "--" + "w+" + "+" * 5, (330, False)),
        ("+" * 35 + "w+", (580, True)),  # nothing more to reach
    ],
)
def test_by_the_numbers_of_mars(results: str, expected: tuple[int, bool]) -> None:
    assert after(network(), results) == expected


def test_a_clock_set_back_changes_nothing() -> None:
    held = network(250, stable=True, changed_ms=10 * STABLE_FOR_MS)
    held.succeeded(MARS, 0)
    assert (held.interval_s, held.stable) == (250, True)


def test_every_reachable_state_is_in_bounds_and_can_be_left() -> None:
    def key(n: Network) -> tuple[int, int, int, bool]:
        return n.interval_s, n.successes, n.failures, n.stable

    def successor(state: tuple[int, int, int, bool], result: str) -> tuple[int, int, int, bool]:
        interval_s, successes, failures, stable = state
        n = Network("", interval_s, successes, failures, stable)
        {"+": n.succeeded, "-": n.failed}[result[0]](SMALL, STABLE_FOR_MS * (result == "+w"))
        return key(n)

    start = (SMALL.start_s, 0, 0, False)
    reached, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for result in ("+", "+w", "-"):
            follower = successor(state, result)
            if follower not in reached:
                reached.add(follower)
                todo.append(follower)
    assert len(reached) > 20
    for interval_s, successes, failures, _ in reached:
        assert SMALL.start_s <= interval_s <= SMALL.max_s
        assert successes < SMALL.successes and failures < SMALL.failures
    for state in reached:
        # A network that has become bad is back at the shortest interval soon, from anywhere ...
        falling = state
        for _ in range(2 * SMALL.failures):
            falling = successor(falling, "-")
        assert falling[0] == SMALL.start_s
        # ... and one that has become good reaches the longest.
        rising = state
        for _ in range(40):
            rising = successor(rising, "+w")
        assert rising[0] == SMALL.max_s


def test_an_interval_never_grows_on_failure_nor_falls_on_success() -> None:
    for results in itertools.product("+-", repeat=9):
        n = Network("", SMALL.start_s)
        for result in results:
            before = n.interval_s
            if result == "+":
                n.succeeded(SMALL, 0)
                assert n.interval_s >= before
            else:
                n.failed(SMALL, 0)
                assert n.interval_s <= before


class TestProber:
    def test_short_until_the_connection_is_proven(self) -> None:
        prober = Prober(network(400), MARS)
        for _ in range(PROVEN_AFTER):
            assert prober.interval_s == 210
            prober.on_pong(210, 0)
        assert prober.interval_s == 400

    def test_results_at_another_interval_do_not_count(self) -> None:
        known = network(270)
        prober = Prober(known, MARS)
        for _ in range(20):
            prober.on_pong(210, 0)
            prober.on_pong(None, 0)
            prober.on_dead(210, 0)
            prober.on_dead(None, 0)
        assert (known.interval_s, known.successes, known.failures) == (270, 0, 0)
        for _ in range(5):
            prober.on_pong(270, 0)
        assert prober.interval_s == 330

    def test_failures_count_across_connections(self) -> None:
        known = network(330)
        Prober(known, MARS).on_dead(330, 0)
        Prober(known, MARS).on_dead(330, 0)
        assert (known.interval_s, known.stable) == (250, True)

    def test_fixed_interval_is_kept(self) -> None:
        prober = Prober(network(), MARS, fixed_s=45)
        for _ in range(20):
            prober.on_pong(45, 0)
        assert prober.interval_s == 45

    def test_new_constants_hold_at_once(self) -> None:
        known = network(580, stable=True)
        prober = Prober(known, MARS)
        prober.retune(SMALL)
        assert (prober.interval_s, known.interval_s) == (10, 22)


def test_constants_from_the_wire() -> None:
    assert Probing.from_wire(device_pb2.Probing()) == MARS
    told = device_pb2.Probing(start_s=9000, max_s=20, step_s=1, successes=1, failures=1, back_s=1)
    assert Probing.from_wire(told) == Probing(600, 1, 600, 1, 1, 1)


def test_the_network_not_used_for_longest_goes() -> None:
    networks = Networks([])
    for n in range(MAX_NETWORKS):
        networks.use(str(n)).interval_s = 100 + n
    networks.use("0")
    networks.use("new")
    assert networks.use("0").interval_s == 100
    assert networks.use("1").interval_s == 0
    again = Networks.from_json(networks.to_json())
    assert again.to_json() == networks.to_json()
    assert len(again.to_json()) == MAX_NETWORKS


@pytest.mark.parametrize("value", [[{"label": 1}], [{}], [{"label": "x", "interval_s": "1"}], [3]])
def test_networks_of_another_shape(value: list[dict[str, object]]) -> None:
    with pytest.raises(TypeError):
        Networks.from_json(value)
