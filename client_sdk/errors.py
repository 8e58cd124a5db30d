"""What an app can be told: refused for good, directory not usable, disk not writable."""

from protocol.codes import ADVICE, CloseCode


class DeviceError(Exception):
    """Base of the SDK's errors."""


class Refused(DeviceError):
    """The service will not take this device as it stands; the SDK has stopped dialling.

    `code` is the close code (a `CloseCode` where this build knows it), `advice` what has to
    change, `detail` what the server added for a developer's log.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        known = code in CloseCode.__members__.values()
        self.code = CloseCode(code) if known else code
        self.advice = ADVICE[CloseCode(code)] if known else "update the SDK to learn what it means"
        self.detail = detail
        name = CloseCode(code).name if known else "unknown close code"
        super().__init__(f"{name} ({code}): {self.advice}" + (f" [{detail}]" if detail else ""))


class StateDirectoryError(DeviceError):
    """The state directory is open in another `Device`, or belongs to another app."""


class StorageError(DeviceError):
    """The disk did not take a mark. Nothing was recorded or sent; the call may be repeated."""


class DeviceClosed(DeviceError):
    """The `Device` is not open (any more)."""
