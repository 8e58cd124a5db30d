"""What edges have not answered: bounded over all who send, and nobody waits while there is room."""

from collections import Counter, deque
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.dispatch.unanswered import Unanswered

SENDERS = range(3)
EDGES = range(3)
OF_ONE, OF_ALL = 4, 6


class Senders(RuleBasedStateMachine):
    """As the lanes of several partitions."""

    def __init__(self) -> None:
        super().__init__()
        self.unanswered = Unanswered(OF_ONE, OF_ALL)
        self.queues: dict[int, dict[int, deque[int]]] = {
            sender: {edge: deque() for edge in EDGES} for sender in SENDERS
        }
        self.wakes = {sender: partial(self._wake, sender) for sender in SENDERS}
        self.woken: deque[int] = deque()
        self.at_edge: dict[int, list[int]] = {edge: [] for edge in EDGES}
        self.gone: set[int] = set()

    def _wake(self, sender: int) -> None:
        assert sender not in self.gone, "it has left"
        if sender not in self.woken:
            self.woken.append(sender)

    @rule(sender=st.sampled_from(SENDERS), edge=st.sampled_from(EDGES), cost=st.integers(1, 5))
    def there_is_something_to_send(self, sender: int, edge: int, cost: int) -> None:
        if sender not in self.gone:
            self.queues[sender][edge].append(cost)
            self._wake(sender)

    @rule()
    def who_was_woken_sends(self) -> None:
        if not self.woken:
            return
        sender = self.woken.popleft()
        if sender in self.gone:
            return
        queues = self.queues[sender]
        while edge := next((e + 1 for e in EDGES if queues[e] and self.unanswered.has_room(e)), 0):
            cost = queues[edge - 1].popleft()
            before = sum(self.at_edge[edge - 1])
            assert before < OF_ONE and self._at_all_edges() < OF_ALL
            self.at_edge[edge - 1].append(cost)
            self.unanswered.add(edge - 1, cost)
        for each in EDGES:
            if queues[each]:
                self.unanswered.wait(each, self.wakes[sender])
        self.unanswered.pass_on()

    @rule(edge=st.sampled_from(EDGES))
    def an_edge_answers(self, edge: int) -> None:
        if self.at_edge[edge]:
            self.unanswered.answered(edge, self.at_edge[edge].pop(0))

    @rule(sender=st.sampled_from(SENDERS[1:]))
    def one_leaves(self, sender: int) -> None:
        """As a partition that goes to another node; woken or not."""
        self.gone.add(sender)
        self.unanswered.leave(self.wakes[sender])

    def _at_all_edges(self) -> int:
        return sum(map(sum, self.at_edge.values()))

    @invariant()
    def all_is_counted(self) -> None:
        assert self.unanswered.total == self._at_all_edges()
        assert Counter({e: sum(c) for e, c in self.at_edge.items() if c}) == self.unanswered._of

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        waits = {
            edge
            for sender in SENDERS
            if sender not in self.gone
            for edge in EDGES
            if self.queues[sender][edge]
        }
        if any(map(self.unanswered.has_room, waits)):
            assert set(self.woken) - self.gone


TestUnanswered = Senders.TestCase
TestUnanswered.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


def test_edges_take_turns() -> None:
    """One that answers at once does not keep the others from being served."""
    unanswered = Unanswered(OF_ONE, OF_ALL)
    woken: list[tuple[int, int]] = []
    unanswered.add(9, OF_ALL)
    for edge in EDGES:
        for sender in SENDERS:
            unanswered.wait(edge, partial(woken.append, (edge, sender)))
    unanswered.answered(9, OF_ALL)
    while len(woken) < 6:
        unanswered.pass_on()
    assert woken == [(edge, sender) for sender in (0, 1) for edge in EDGES]
