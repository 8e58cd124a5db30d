"""Output of a connection whose kernel buffer is full: order, whole frames, lanes, recalls."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.edge.output import CONTROL, Item, Output
from gateway.lanes import HIGH, LOW, NORMAL
from protocol.frames import encode, split

PRIORITIES = st.sampled_from([CONTROL, HIGH, NORMAL, LOW])


def item(priority: int, number: int, size: int = 10) -> Item:
    """A frame that tells its number; of a message also its push id."""
    body = number.to_bytes(4, "big") + bytes(size)
    return Item(priority, 0 if priority == CONTROL else number, encode(5, body))


class Wire(RuleBasedStateMachine):
    """A kernel that takes as much as it likes at each offer, against plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.output = Output()
        self.items: dict[int, Item] = {}
        self.taken = b""
        self.recalled: dict[int, int] = {}
        """push id -> bytes that had been taken when it was recalled"""

    @initialize(priorities=st.lists(PRIORITIES, min_size=1, max_size=4), part=st.floats(0, 0.99))
    def a_turn_that_did_not_fit(self, priorities: list[int], part: float) -> None:
        items = [self._item(priority, 20) for priority in priorities]
        data = b"".join(i.data for i in items)
        sent = int(len(data) * part)
        self.taken = data[:sent]
        self.output.put_rest(items, sent)

    def _item(self, priority: int, size: int) -> Item:
        number = len(self.items) + 1
        made = self.items[number] = item(priority, number, size)
        return made

    @rule(priority=PRIORITIES, size=st.sampled_from([0, 40, 9000]))
    def put(self, priority: int, size: int) -> None:
        self.output.put(self._item(priority, size))

    @rule(part=st.floats(0, 1))
    def write(self, part: float) -> None:
        chunk = self.output.chunk()
        sent = int(len(chunk) * part)
        self.taken += chunk[:sent]
        self.output.advance(sent)

    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        messages = [i.push_id for i in self.items.values() if i.push_id]
        if messages:
            push_id = data.draw(st.sampled_from(messages))
            self.recalled.setdefault(push_id, len(self.taken))
            self.output.recall(push_id)

    @invariant()
    def frames_are_whole_and_lanes_in_order(self) -> None:
        frames, _ = split(self.taken, 1 << 20)
        numbers = [int.from_bytes(body[:4], "big") for _, body in frames]
        assert len(set(numbers)) == len(numbers), "nothing goes out twice"
        for lane in (CONTROL, HIGH, NORMAL, LOW):
            of_lane = [n for n in numbers if self.items[n].priority == lane]
            assert of_lane == sorted(of_lane)

    @invariant()
    def a_recalled_message_is_not_begun_any_more(self) -> None:
        at = 0
        frames, _ = split(self.taken, 1 << 20)
        for kind, body in frames:
            number = int.from_bytes(body[:4], "big")
            assert at < self.recalled.get(number, 1 << 60) or at == 0
            at += len(encode(kind, body))

    def teardown(self) -> None:
        while self.output.size:
            chunk = self.output.chunk()
            assert chunk
            self.taken += chunk
            self.output.advance(len(chunk))
        assert self.output.chunk() == b""
        frames, used = split(self.taken, 1 << 20)
        assert used == len(self.taken), "the last frame is whole, too"
        seen = {int.from_bytes(body[:4], "big") for _, body in frames}
        assert seen | set(self.recalled) == set(self.items), "nothing is lost"


TestWire = Wire.TestCase


def test_answers_and_high_messages_go_ahead_of_what_has_not_been_started() -> None:
    output = Output()
    campaign = [item(LOW, n, 12_000) for n in range(1, 4)]
    output.put_rest(campaign, 100)
    output.put(item(HIGH, 9))
    output.put(item(CONTROL, 10))
    taken = campaign[0].data[:100]
    while output.size:
        chunk = bytes(output.chunk()[:6000])
        taken += chunk
        output.advance(len(chunk))
    frames, _ = split(bytes(taken), 1 << 20)
    assert [int.from_bytes(body[:4], "big") for _, body in frames] == [1, 10, 9, 2, 3]


def test_before_a_goaway_messages_go_and_answers_stay() -> None:
    output = Output()
    output.put_rest([item(NORMAL, 1), item(NORMAL, 2), item(CONTROL, 3)], 5)
    output.drop_messages()
    started = output.chunk()
    assert started == item(NORMAL, 1).data[5:]
    output.advance(len(started))
    assert output.chunk() == item(CONTROL, 3).data
    assert output.size == len(item(CONTROL, 3).data)
