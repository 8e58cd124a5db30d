"""The session table: (side, state, frame kind) -> next state. An absent entry is a protocol error.

One table serves both sides and both directions; whether a frame is sent or received follows from
its kind (`UPWARD`). Ends of connections are not frames: any state may go to CLOSED at any time.
"""

from enum import IntEnum
from typing import Final

from protocol.codes import OPTIONAL_BIT, CloseCode, Kind
from protocol.errors import LocalProtocolError, RemoteProtocolError


class Side(IntEnum):
    DEVICE = 0
    EDGE = 1


class State(IntEnum):
    """States of a session, the same on both sides (one side may be a frame ahead)."""

    CLOSED = 0
    """No connection, or an ended one."""
    CONNECTED = 1
    """Bytes flow, nobody has spoken."""
    GREETED = 2
    """HELLO is sent; the edge authenticates and registers."""
    OPEN = 3
    """WELCOME is sent; messages, receipts and heartbeats flow."""
    LEAVING = 4
    """GOAWAY is sent; frames that crossed it, and acknowledgements, still count."""


UPWARD: Final = frozenset(
    {Kind.HELLO, Kind.PING, Kind.RECEIPTS, Kind.PROFILE, Kind.HEARTBEAT, Kind.BYE}
)
"""Kinds that travel from device to edge; all the others travel down."""

_SHARED: Final[dict[tuple[State, Kind], State]] = {
    (State.CONNECTED, Kind.HELLO): State.GREETED,
    (State.CONNECTED, Kind.GOAWAY): State.LEAVING,
    (State.GREETED, Kind.WELCOME): State.OPEN,
    (State.GREETED, Kind.GOAWAY): State.LEAVING,
    **{
        (State.OPEN, kind): State.OPEN
        for kind in (
            Kind.PING,
            Kind.PONG,
            Kind.MESSAGE,
            Kind.RECALL,
            Kind.RECEIPTS,
            Kind.RECEIPT_ACK,
            Kind.PROFILE,
            Kind.PROFILE_ACK,
            Kind.HEARTBEAT,
        )
    },
    (State.OPEN, Kind.BYE): State.CLOSED,
    (State.OPEN, Kind.GOAWAY): State.LEAVING,
    **{
        (State.LEAVING, kind): State.LEAVING
        for kind in (
            Kind.PING,
            Kind.PONG,
            Kind.RECEIPTS,
            Kind.RECEIPT_ACK,
            Kind.PROFILE,
            Kind.PROFILE_ACK,
            Kind.HEARTBEAT,
        )
    },
    (State.LEAVING, Kind.BYE): State.CLOSED,
}

TABLE: Final[dict[tuple[Side, State, Kind], State]] = {
    **{(side, state, kind): after for side in Side for (state, kind), after in _SHARED.items()},
    # The edge has said GOAWAY before HELLO arrived: the HELLO crossed it and is dropped.
    (Side.EDGE, State.LEAVING, Kind.HELLO): State.LEAVING,
    # The other way round, a device that has just said BYE may still be sent to.
    **{
        (Side.DEVICE, State.CLOSED, kind): State.CLOSED
        for kind in (
            Kind.PONG,
            Kind.MESSAGE,
            Kind.RECALL,
            Kind.RECEIPT_ACK,
            Kind.PROFILE_ACK,
            Kind.GOAWAY,
        )
    },
}


_SKIPS: Final = frozenset(
    {(side, state) for side in Side for state in (State.GREETED, State.OPEN, State.LEAVING)}
    | {(Side.DEVICE, State.CLOSED)}  # sent before the edge had the BYE
)
"""Where an optional frame of an unknown kind is skipped. Not before HELLO: that byte is the door."""


def _received(side: Side, kind: int) -> bool:
    return (kind in UPWARD) == (side is Side.EDGE)


def on_received(side: Side, state: State, kind: int) -> State | None:
    """State after receiving a frame; None if the frame is optional and unknown: skip it.

    Raises RemoteProtocolError where the table has no entry.
    """
    after = TABLE.get((side, state, kind)) if _received(side, kind) else None  # type: ignore[arg-type]
    if after is None:
        if kind & OPTIONAL_BIT and (side, state) in _SKIPS:
            return None
        raise RemoteProtocolError(
            f"{_name(kind)} is not allowed in state {state.name}", CloseCode.PROTOCOL_ERROR
        )
    return after


def on_sent(side: Side, state: State, kind: int) -> State:
    """State after sending a frame. Raises LocalProtocolError where the table has no entry."""
    after = None if _received(side, kind) else TABLE.get((side, state, kind))  # type: ignore[arg-type]
    if after is None:
        raise LocalProtocolError(f"{_name(kind)} may not be sent in state {state.name}")
    return after


def _name(kind: int) -> str:
    return Kind(kind).name if kind in Kind.__members__.values() else f"frame kind 0x{kind:02x}"
