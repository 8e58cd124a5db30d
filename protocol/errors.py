"""The two errors of the wire: your fault, or the peer's."""

from protocol.codes import CloseCode


class ProtocolError(Exception):
    """Base of both; catch this to handle either side's mistake alike."""


class LocalProtocolError(ProtocolError):
    """This side tried what the protocol forbids: a defect in the calling code, nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol. `code` is the close code to answer with before closing."""

    def __init__(self, message: str, code: CloseCode) -> None:
        super().__init__(message)
        self.code = code
