"""Kinds, close codes and limits: what other parts of the protocol silently rely on."""

import pytest

from protocol import codes
from protocol.codes import ADVICE, DOOR_BYTES, OPTIONAL_BIT, CloseCode, Kind, Verdict
from protocol.frames import varint
from protocol.schema.device_pb2 import (
    Content,
    Message,
    Notification,
    Profile,
    Recall,
    Receipt,
    Receipts,
    Welcome,
)

NUMBERS = {
    **{"HELLO": 1, "WELCOME": 2, "PING": 3, "PONG": 4, "MESSAGE": 5, "RECEIPTS": 6},
    **{"RECEIPT_ACK": 7, "PROFILE": 8, "PROFILE_ACK": 9, "HEARTBEAT": 10, "GOAWAY": 11, "BYE": 12},
    "RECALL": 14,
}

VERDICTS = {
    Verdict.NOW: {
        "GOING_AWAY": 4000,
        "HEARTBEAT_TIMEOUT": 4001,
        "WRONG_CLOCK": 4002,
        "STALE_CONNECTION": 4003,
    },
    Verdict.LATER: {
        "OVERLOADED": 4100,
        "STORE_UNAVAILABLE": 4101,
        "TOO_SLOW": 4102,
        "HELLO_TIMEOUT": 4103,
        "EDGE_FULL": 4104,
        "PROTOCOL_ERROR": 4105,
        "FRAME_TOO_LARGE": 4106,
    },
    Verdict.NEVER: {
        "UNSUPPORTED_VERSION": 4200,
        "BAD_TOKEN": 4201,
        "TOKEN_EXPIRED": 4202,
        "UNKNOWN_APP": 4203,
        "BAD_ACCESS_KEY": 4204,
        "REPLACED": 4205,
    },
}


def test_kinds_in_the_field_keep_their_numbers() -> None:
    assert {kind.name: kind.value for kind in Kind} == NUMBERS


def test_codes_in_the_field_keep_their_numbers_and_verdicts() -> None:
    assert {code.name: code.value for code in CloseCode} == {
        name: value for named in VERDICTS.values() for name, value in named.items()
    }
    for verdict, named in VERDICTS.items():
        for name in named:
            assert CloseCode[name].verdict is verdict


def test_no_kind_is_a_door() -> None:
    assert {0x0D, 0x10, 0x16, ord("G"), ord("P")} == DOOR_BYTES
    assert not DOOR_BYTES & set(Kind)


def test_no_kind_of_today_is_optional() -> None:
    assert not any(kind & OPTIONAL_BIT for kind in Kind)


def test_every_code_has_advice_and_is_a_websocket_code_of_applications() -> None:
    assert set(ADVICE) == set(CloseCode)
    assert all(len(advice.split()) >= 5 for advice in ADVICE.values())
    assert all(4000 <= code <= 4999 for code in CloseCode)


@pytest.mark.parametrize(
    ("interval", "timeout"), [(1, 11.5), (60, 100.0), (210, 325.0), (600, 910.0)]
)
def test_server_timeout(interval: float, timeout: float) -> None:
    assert codes.server_timeout_s(interval) == timeout


def test_every_limit_fits_the_length_of_a_frame() -> None:
    for limit in (codes.MAX_BODY_UP, codes.MAX_BODY_DOWN, codes.MAX_CONTENT):
        assert len(varint(limit)) <= codes.MAX_LENGTH_BYTES


def test_the_most_receipts_without_reasons_fit_one_frame() -> None:
    receipt = Receipt(push_id=1, state="CLICKED", at_ms=1 << 48, clock_offset_ms=-(1 << 48))
    full = Receipts(seq=1 << 60, receipts=[receipt] * codes.MAX_RECEIPTS)
    assert full.ByteSize() <= codes.MAX_BODY_UP


def test_the_most_recalls_fit_one_frame_and_a_welcome_with_all_else() -> None:
    ids = [(1 << 64) - 1] * codes.MAX_RECALLS
    assert Recall(push_id=ids).ByteSize() <= codes.MAX_BODY_DOWN
    # Far from the limit: the settings of the app share the frame.
    assert Welcome(recalled=ids).ByteSize() <= codes.MAX_BODY_DOWN // 16


def test_the_largest_message_fits_one_frame() -> None:
    content = Content(notification=Notification(body="b" * (codes.MAX_CONTENT - 10)))
    assert codes.MAX_CONTENT - 10 < content.ByteSize() <= codes.MAX_CONTENT
    key = "k" * codes.MAX_COLLAPSE_KEY_BYTES
    full = Message(push_id=1, ttl_s=(1 << 32) - 1, content=content, collapse_key=key)
    assert full.ByteSize() <= codes.MAX_BODY_DOWN


def test_the_largest_profile_fits_one_frame() -> None:
    names = ("platform", "version", "lang", "tz", "country", "permission", "sdk")
    full = Profile(
        change=1 << 60,
        tags=["t" * codes.MAX_TAG_BYTES] * codes.MAX_TAGS,
        attributes={name: "v" * codes.MAX_TEXT_BYTES for name in names},
    )
    assert full.ByteSize() <= codes.MAX_BODY_UP


def test_a_device_waits_longer_for_welcome_than_an_edge_for_hello() -> None:
    assert codes.WELCOME_TIMEOUT_S > codes.HELLO_TIMEOUT_S
