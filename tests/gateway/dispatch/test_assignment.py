"""Who owns what: every partition one live node, and little moves."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.assignment import owner_of, share_of
from gateway.store.leases import Identity

PARTITIONS = 64
NODES = st.lists(
    st.builds(Identity, st.just("node"), st.integers(1, 9), st.integers(1, 99)),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(NODES, st.randoms(use_true_random=False))
def test_every_partition_has_one_owner_and_all_nodes_see_the_same(
    nodes: list[Identity], chance: Random
) -> None:
    shuffled = list(nodes)
    chance.shuffle(shuffled)
    shares = [share_of(node, shuffled, PARTITIONS) for node in nodes]
    assert sorted(p for share in shares for p in share) == list(range(PARTITIONS))
    assert all(owner_of(p, nodes) == owner_of(p, shuffled) for p in range(PARTITIONS))


@given(NODES, st.data())
def test_a_node_that_leaves_moves_only_its_own_share(
    nodes: list[Identity], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(nodes))
    left = [node for node in nodes if node != gone]
    for p in range(PARTITIONS):
        before = owner_of(p, nodes)
        assert owner_of(p, left) == (before if before != gone else owner_of(p, left))
        if before != gone:
            assert owner_of(p, left) == before


@given(NODES)
def test_a_node_that_joins_takes_from_others_and_moves_nothing_between_them(
    nodes: list[Identity],
) -> None:
    new = Identity("node", 10, 100)
    for p in range(PARTITIONS):
        assert owner_of(p, [*nodes, new]) in (new, owner_of(p, nodes))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shares_are_about_even(count: int) -> None:
    nodes = [Identity("node", n, n) for n in range(1, count + 1)]
    for node in nodes:
        assert 0.8 < len(share_of(node, nodes, 1024)) / (1024 / count) < 1.2


def test_nobody_owns_when_nobody_lives() -> None:
    assert owner_of(3, []) is None
