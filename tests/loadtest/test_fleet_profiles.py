"""Tags of the fleet: the desk by itself, and the fleet against a scripted edge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.device_table import CLOSED, OPEN, DeviceTable
from loadtest.fleet import Fleet
from loadtest.profile_desk import ProfileDesk
from protocol.codes import MAX_BODY_UP, MAX_TAGS, CloseCode, Kind
from protocol.frames import Frame, split
from protocol.schema import device_pb2
from tests.loadtest.drawing import UNHURRIED
from tests.loadtest.fleet_setting import Setting
from tests.loadtest.scripted_edge import Peer, goaway, turn_until


def profiles_of(frames: list[Frame]) -> list[device_pb2.Profile]:
    return [device_pb2.Profile.FromString(body) for kind, body in frames if kind == Kind.PROFILE]


def said(peer: Peer) -> list[tuple[int, list[str]]]:
    """(change number, tags) of each PROFILE that has come since the last call."""
    return [(profile.change, [*profile.tags]) for profile in profiles_of(peer.read())]


def set_tags(fleet: Fleet, row: int, *tags: str) -> bool:
    return fleet.profiles.set_tags(row, fleet.profiles.choice_of(tags))


def ack(fleet: Fleet, peer: Peer, change: int) -> None:
    """Sent and, by the fleet, read."""
    before = fleet.counters.pongs
    peer.send(Kind.PROFILE_ACK, device_pb2.ProfileAck(change=change))
    peer.send(Kind.PONG)
    turn_until(fleet, lambda: fleet.counters.pongs == before + 1)


def test_says_its_tags_right_behind_welcome_and_once_a_connection(setting: Setting) -> None:
    fleet = setting.fleet()
    set_tags(fleet, 0, "vip", "city:gz", "platform:android", "lang:zh")
    assert fleet.profiles.unacknowledged == 1
    peer = setting.edge.connect(fleet)
    fleet.turn(0)
    [profile] = profiles_of(peer.read())
    assert (profile.change, [*profile.tags]) == (1, ["city:gz", "vip"])
    assert dict(profile.attributes) == {"platform": "android", "lang": "zh"}
    setting.later(fleet, 5)
    assert said(peer) == []
    ack(fleet, peer, 1)
    assert fleet.profiles.unacknowledged == 0
    assert (fleet.counters.profiles_sent, fleet.counters.profiles_acked) == (1, 1)


def test_says_nothing_while_it_has_nothing_to_say(setting: Setting) -> None:
    fleet = setting.fleet()
    assert not set_tags(fleet, 0)
    peer = setting.edge.connect(fleet)
    fleet.turn(0)
    assert said(peer) == [] and fleet.profiles.unacknowledged == 0


def test_a_change_is_sent_at_once_and_beside_one_that_is_under_way(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.connect(fleet)
    for tags in (("a",), ("b",), ("b",), ()):
        set_tags(fleet, 0, *tags)
        fleet.turn(0)
    assert said(peer) == [(1, ["a"]), (2, ["b"]), (3, [])]
    ack(fleet, peer, 2)
    assert fleet.profiles.unacknowledged == 1
    ack(fleet, peer, 3)
    assert fleet.profiles.unacknowledged == 0 and fleet.counters.profiles_acked == 1


def test_changes_of_one_turn_are_one_profile(setting: Setting) -> None:
    fleet = setting.fleet()
    peer = setting.edge.connect(fleet)
    set_tags(fleet, 0, "a")
    set_tags(fleet, 0, "b")
    fleet.turn(0)
    assert said(peer) == [(2, ["b"])]


def test_goes_out_on_each_connection_until_it_is_acknowledged(setting: Setting) -> None:
    fleet = setting.fleet()
    set_tags(fleet, 0, "a")
    for change, tags in ((1, "a"), (1, "a"), (2, "b")):
        set_tags(fleet, 0, tags)  # the last time while it is away
        peer = setting.edge.connect(fleet)
        fleet.turn(0)
        assert said(peer) == [(change, [tags])]
        if change == 2:
            ack(fleet, peer, 2)
        lost = fleet.counters.lost
        peer.close()
        turn_until(fleet, lambda lost=lost: fleet.counters.lost == lost + 1)
        setting.clock.now += 1
    peer = setting.edge.connect(fleet)
    fleet.turn(0)
    assert said(peer) == [] and fleet.profiles.unacknowledged == 0


def test_registered_anew_it_says_everything_anew(setting: Setting) -> None:
    fleet = setting.fleet()
    set_tags(fleet, 0, "a")
    peer = setting.edge.connect(fleet)
    fleet.turn(0)
    ack(fleet, peer, 1)
    peer.close()
    turn_until(fleet, lambda: fleet.counters.lost == 1)
    setting.clock.now += 1
    peer = setting.edge.accept(fleet)
    peer.send(Kind.GOAWAY, goaway(CloseCode.BAD_TOKEN))
    turn_until(fleet, lambda: fleet.counters.tokens_refused == 1)
    setting.clock.now += 2
    peer = setting.edge.connect(fleet)
    fleet.turn(0)
    assert said(peer) == [(1, ["a"])] and fleet.profiles.unacknowledged == 1


def test_rows_share_their_sets_of_tags_and_keep_their_own_numbers() -> None:
    desk = ProfileDesk(DeviceTable(3, b"seed"))
    one, other = desk.choice_of(["a", "b"]), desk.choice_of(["c"])
    assert desk.choice_of({"b", "a"}) == one != other
    assert [desk.set_tags(row, choice) for row, choice in ((0, one), (1, other), (1, one))]
    assert not desk.set_tags(0, one)
    assert [desk.choices[choice] for choice in desk.chosen()] == [{"a", "b"}, {"a", "b"}, set()]
    assert desk.unacknowledged == 2
    assert not desk.on_ack(1, 1) and desk.on_ack(1, 2) and not desk.on_ack(1, 2)
    assert desk.unacknowledged == 1


@pytest.mark.parametrize(
    "tags",
    [[""], ["x" * 129], ["new:1d"], ["platform"], ["lang:"], ["lang:zh", "lang:en"],
     [f"t{n}" for n in range(MAX_TAGS + 1)]],
)  # fmt: skip
def test_tags_that_a_device_may_not_have_are_refused(tags: list[str]) -> None:
    desk = ProfileDesk(DeviceTable(1, b"seed"))
    with pytest.raises(ValueError):
        desk.choice_of(tags)
    assert desk.choices == [frozenset()]


class Model:
    """One device, as docs/protocol.md says it."""

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.change = self.sent = self.safe = 0

    def due(self) -> list[tuple[int, list[str]]]:
        if self.change in (self.safe, self.sent):
            return []
        self.sent = self.change
        return [(self.change, self.tags)]


@UNHURRIED
@given(st.lists(st.sampled_from(["a", "b", "", "open", "close", "turn", "ack", "old ack"])))
def test_desk_does_what_the_protocol_asks_for(steps: list[str]) -> None:
    table = DeviceTable(1, b"seed")
    desk, model = ProfileDesk(table), Model()
    for step in steps:
        is_open = table.phase[0] == OPEN
        if step in ("a", "b", ""):
            tags = [step] if step else []
            assert desk.set_tags(0, desk.choice_of(tags)) == (tags != model.tags)
            model.change += tags != model.tags
            model.tags = tags
        elif step == "open" and not is_open:
            table.phase[0] = OPEN
            desk.on_open(0)
        elif step == "close" and is_open:
            table.phase[0] = CLOSED
            desk.on_closed(0)
            model.sent = 0
        elif step == "turn":
            found = [split(frame, MAX_BODY_UP)[0] for _, frame in desk.frames()]
            profiles = [profile for frames in found for profile in profiles_of(frames)]
            assert [(p.change, [*p.tags]) for p in profiles] == (model.due() if is_open else [])
        elif step == "ack" and is_open and model.sent:
            desk.on_ack(0, model.sent)
            model.safe = max(model.safe, model.sent)
        elif step == "old ack" and is_open and model.sent > 1:
            desk.on_ack(0, model.sent - 1)
            model.safe = max(model.safe, model.sent - 1)
        assert desk.unacknowledged == (model.change > model.safe)
