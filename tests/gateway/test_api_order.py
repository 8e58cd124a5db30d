"""The pure part of accepting: who is targeted, what is written, when two bodies mean the same."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.order import (
    Accepted,
    Order,
    decode_answer,
    devices_of,
    digest_of,
    encode_answer,
    home_of,
    known_targets,
    size_of,
    split,
    without,
)
from gateway.api.shape import Shape
from gateway.audience import All
from gateway.audience_text import parse_text
from gateway.store.apps import App
from gateway.store.pushes import encode_push
from protocol.ids import device_id
from protocol.schema import log_pb2


def packed(*indexes: int) -> bytes:
    return struct.pack(f"<{len(indexes)}I", *indexes)


def test_devices_are_sorted_by_partition_in_their_order() -> None:
    devices = [device_id(1, 7), device_id(0, 3), device_id(1, 5), device_id(9, 1)]
    targets, beyond = split(devices, 4)
    assert targets == {1: packed(7, 5), 0: packed(3)}
    assert beyond == [device_id(9, 1)]


@given(st.lists(st.integers(0, 2**64 - 1), unique=True), st.integers(1, 1024))
def test_splitting_loses_nobody(devices: list[int], partitions: int) -> None:
    targets, beyond = split(devices, partitions)
    found = [device for p, indexes in targets.items() for device in devices_of(p, indexes)]
    assert sorted(found + beyond) == sorted(devices)


def test_unknown_indexes_are_taken_out() -> None:
    assert without(packed(1, 2, 3, 4), packed(4, 2)) == packed(1, 3)
    assert without(packed(1), b"") == packed(1)


@pytest.mark.parametrize(
    ("unknown", "left"),
    [
        ({0: b"", 1: packed(5)}, {0: packed(1, 2)}),
        ({0: packed(1), 1: b""}, {0: packed(2), 1: packed(5)}),
        ({0: packed(1, 2), 1: packed(5)}, {3: b""}),
    ],
    ids=["one partition falls away", "some fall away", "nobody is left: one record at home"],
)
def test_targets_after_the_look_up(unknown: dict[int, bytes], left: dict[int, bytes]) -> None:
    assert known_targets({0: packed(1, 2), 1: packed(5)}, unknown, home=3) == left


@given(
    push_id=st.integers(1, 2**64 - 1),
    app=st.integers(1, 65_535),
    ttl_s=st.integers(0, 28 * 86_400),
    audience=st.binary(max_size=300),
    accepted_ms=st.integers(0, 2**45),
    home=st.integers(0, 1023),
)
def test_the_record_built_by_hand_is_the_schema_s(
    push_id: int, app: int, ttl_s: int, audience: bytes, accepted_ms: int, home: int
) -> None:
    by_hand = encode_push(
        push_id, app, ttl_s, audience=audience, accepted_ms=accepted_ms, home=home
    )
    assert log_pb2.Push.FromString(by_hand) == log_pb2.Push(
        push_id=push_id,
        app=app,
        ttl_s=ttl_s,
        audience=audience,
        accepted_ms=accepted_ms,
        home=home,
    )


def test_the_size_of_an_order_grows_with_all_it_holds() -> None:
    app = App("shop", 7, "access", ())
    one = size_of(Order(app, b"", [1], b"c" * 100, 60), 16)
    assert one > 100
    assert size_of(Order(app, b"", [1], b"c" * 60_000, 60), 16) == one + 59_900
    assert size_of(Order(app, b"", range(10_000), b"c", 60), 16) > 10_000 * 48
    assert size_of(Order(app, b'"all"', (), b"c", 60), 1024) > 1024 * 100


def digest(**changed: object) -> str:
    meaning = {
        "audience": None,
        "devices": [1, 2],
        "malformed": ["x"],
        "content": b"c",
        "ttl_s": 5,
    }
    return digest_of(**{**meaning, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a & (b | !(c & d))", "(!(d & c) | b) & a", True),
        ("devices(1, 2) & a", "a & devices(2, 1)", True),
        ("a & b", "a | b", False),
        ("a & !b", "b & !a", False),
        ("segment(a)", "a", False),
        ("all", "!all", False),
    ],
)
def test_order_of_terms_makes_no_other_body(one: str, other: str, same: bool) -> None:
    assert (digest(audience=parse_text(one)) == digest(audience=parse_text(other))) == same


def test_order_of_devices_makes_no_other_body() -> None:
    assert digest() == digest(devices=[2, 1])


@pytest.mark.parametrize(
    "changed",
    [
        {"audience": All()},
        {"devices": [1]},
        {"malformed": []},
        {"content": b"d"},
        {"ttl_s": 6},
        {"shape": Shape(speed=5)},
        {"shape": Shape(holdout=0.5)},
        {"shape": Shape(priority=1)},
        {"shape": Shape(collapse_key="a")},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_part_makes_another_body(changed: dict[str, object]) -> None:
    assert digest(**changed) != digest()


def test_digests_that_stand_in_stores_stay_what_they_were() -> None:
    assert digest() == "8fef2c1526623171e4b0b7c9d0eca4f06a843920822c457b3ddec14e2a002277"
    assert digest(shape=Shape()) == digest()
    for shape, was in (
        (Shape(500, 0.1), "b95109009a94f3bae46a8d9bd2d6d3794a98b195dc6d08323b06ce4fc37d9490"),
        (Shape(5), "0d072fd664aa640bab4c742e544fdec88f2520d15996905e3dc8a5b0bb72bd46"),
        (Shape(0, 0.5), "c02783b68a662e69eddd3589f6c4f5b4db1c5c7899abb70324d01fa2d7ca4a03"),
    ):
        assert digest(shape=shape) == was


@pytest.mark.parametrize(
    "accepted", [Accepted(2**63 + 5, 1, [2**63 + 7]), Accepted(9, None, [], ("vips",))]
)
def test_a_stored_answer_comes_back_whole(accepted: Accepted) -> None:
    assert decode_answer(encode_answer(accepted)) == accepted


def test_homes_are_spread() -> None:
    assert {home_of(f"{n * 2654435761 % 2**32:08x}" + "0" * 56, 4) for n in range(64)} == {
        0,
        1,
        2,
        3,
    }
