"""RECEIPTS and PROFILE frames read and checked."""

from collections.abc import Sequence
from typing import Final

from gateway.systemtags import REPORTED, is_system
from protocol.codes import (
    MAX_RECEIPTS,
    MAX_TAG_BYTES,
    MAX_TAGS,
    MAX_TEXT_BYTES,
    CloseCode,
)
from protocol.errors import RemoteProtocolError
from protocol.schema import device_pb2, log_pb2

_STATES: Final = frozenset(device_pb2.ReceiptState.values()) - {0}


def read_receipts(body: bytes) -> tuple[int, Sequence[tuple[int, int]]]:
    """(seq, [(push id, state), ...]). Raises RemoteProtocolError, DecodeError."""
    message = device_pb2.Receipts.FromString(body)
    receipts = [(r.push_id, r.state) for r in message.receipts]
    seq = message.seq
    if not receipts or not seq:
        raise _malformed("RECEIPTS needs a seq from 1 and at least one receipt")
    if len(receipts) > MAX_RECEIPTS:
        raise _malformed(f"{len(receipts)} receipts in a frame, at most {MAX_RECEIPTS}")
    # A short frame cannot hold a long reason.
    if len(body) > MAX_TEXT_BYTES and any(
        len(r.reason.encode()) > MAX_TEXT_BYTES for r in message.receipts
    ):
        raise _malformed(f"a reason has at most {MAX_TEXT_BYTES} bytes")
    for push_id, state in receipts:
        if state not in _STATES or not push_id:
            raise _malformed(f"receipt with state {state} for push {push_id}")
    return seq, receipts


def read_profile(body: bytes, index: int) -> tuple[int, bytes]:
    """(change number, columba.log.Profile encoded). Raises RemoteProtocolError, DecodeError.

    A tag in the name of a system tag is left out: those are the service's to set.
    """
    message = device_pb2.Profile.FromString(body)
    if not message.change:
        raise _malformed("PROFILE needs a change number from 1")
    if len(message.tags) > MAX_TAGS or len(message.attributes) > MAX_TAGS:
        raise _malformed(f"more than {MAX_TAGS} tags")
    if any(not tag or len(tag.encode()) > MAX_TAG_BYTES for tag in message.tags):
        raise _malformed(f"a tag has 1 to {MAX_TAG_BYTES} bytes")
    if any(len(value.encode()) > MAX_TEXT_BYTES for value in message.attributes.values()):
        raise _malformed(f"an attribute has at most {MAX_TEXT_BYTES} bytes")
    tags = {tag for tag in message.tags if not is_system(tag)}
    tags.update(f"{name}:{value}" for name, value in message.attributes.items() if name in REPORTED)
    profile = log_pb2.Profile(index=index, change=message.change, tags=sorted(tags))
    return message.change, profile.SerializeToString()


def _malformed(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, CloseCode.PROTOCOL_ERROR)
