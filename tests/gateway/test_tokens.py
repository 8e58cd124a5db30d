"""Device tokens: sealed by us, opened by us, and by nobody changed."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tokens import TOKEN_BYTES, BadToken, Sealer, Token

OLD, NEW = os.urandom(32), os.urandom(32)
TOKENS = st.builds(
    Token,
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
ONE = Token(app=3, device=7 << 32 | 5, generation=2, issued_s=1_700_000_000)


@given(TOKENS)
def test_what_was_sealed_opens(token: Token) -> None:
    sealer = Sealer({1: OLD}, 1)
    sealed = sealer.seal(token)
    assert len(sealed) == TOKEN_BYTES
    assert sealer.open(sealed) == token


def test_any_flipped_bit_is_refused() -> None:
    # Key id 1 with a bit flipped may be the id of another key: the seal names its id, too.
    sealer = Sealer({key_id: OLD for key_id in range(1, 256)}, 1)
    sealed = sealer.seal(ONE)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadToken):
            sealer.open(bytes(damaged))


@given(st.binary(max_size=2 * TOKEN_BYTES))
def test_bytes_of_any_kind_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(BadToken):
        Sealer({1: OLD}, 1).open(data)


@pytest.mark.parametrize("length", [0, 1, TOKEN_BYTES - 1, TOKEN_BYTES + 1])
def test_another_length_is_refused(length: int) -> None:
    sealed = Sealer({1: OLD}, 1).seal(ONE)
    with pytest.raises(BadToken, match="bytes"):
        Sealer({1: OLD}, 1).open((sealed + b"x")[:length])


def test_keys_rotate_without_a_device_noticing() -> None:
    before = Sealer({1: OLD}, 1)
    during = Sealer({1: OLD, 2: NEW}, 2)
    after = Sealer({2: NEW}, 2)
    old, new = before.seal(ONE), during.seal(ONE)
    assert during.open(old) == during.open(new) == after.open(new) == ONE
    with pytest.raises(BadToken, match="not in use"):
        after.open(old)
    with pytest.raises(BadToken, match="not in use"):
        before.open(new)


def test_a_key_of_another_deployment_under_our_id_opens_nothing() -> None:
    with pytest.raises(BadToken, match="seal is broken"):
        Sealer({1: NEW}, 1).open(Sealer({1: OLD}, 1).seal(ONE))


def test_no_two_seals_are_alike() -> None:
    sealer = Sealer({1: OLD}, 1)
    assert len({sealer.seal(ONE) for _ in range(100)}) == 100
