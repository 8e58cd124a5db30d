"""What the app gets: a message, and the ways to say what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from client_sdk.entries import Stored
from client_sdk.inbox import Inbox
from protocol.codes import MAX_TEXT_BYTES
from protocol.schema import device_pb2


@dataclass(frozen=True, slots=True)
class Notification:
    """To be shown to the user. `url` is opened on click; `image` is the address of a picture."""

    title: str
    body: str
    url: str
    image: str


class Message:
    """One message. Each method returns when its receipt is on disk, to be sent until the service
    has acknowledged it, and raises StorageError when the disk did not take it.

    Any of them finishes the message: it is no longer among `Device.unfinished()`.
    """

    __slots__ = (
        "_inbox",
        "arrived_ms",
        "collapse_key",
        "data",
        "notification",
        "push_id",
        "ttl_s",
    )

    def __init__(self, stored: Stored, inbox: Inbox) -> None:
        content = device_pb2.Content.FromString(stored.content)
        shown = content.notification
        self._inbox = inbox
        self.push_id = stored.push_id
        self.arrived_ms = stored.arrived_ms
        """When it was stored, ms since the Unix epoch by the service's clock."""
        self.ttl_s = stored.ttl_s
        """Seconds it had left then."""
        self.collapse_key = stored.collapse_key
        """Empty, or what it shares with the messages it replaces and is replaced by: the tag to
        show a notification under, where the platform has such."""
        self.data: Mapping[str, str] = dict(content.data)
        self.notification = (
            Notification(shown.title, shown.body, shown.url, shown.image)
            if content.HasField("notification")
            else None
        )

    def __repr__(self) -> str:
        return f"<Message {self.push_id:x}>"

    async def displayed(self) -> None:
        """The user was shown it."""
        await self._inbox.report(self.push_id, device_pb2.DISPLAYED)

    async def clicked(self) -> None:
        """The user opened it."""
        await self._inbox.report(self.push_id, device_pb2.CLICKED)

    async def dismissed(self) -> None:
        """The user swept it away."""
        await self._inbox.report(self.push_id, device_pb2.DISMISSED)

    async def failed(self, reason: str) -> None:
        """The app can do nothing with it. `reason` is cut to what a receipt may carry."""
        text = reason.encode(errors="replace")[:MAX_TEXT_BYTES].decode(errors="ignore")
        await self._inbox.report(self.push_id, device_pb2.FAILED, text)

    async def done(self) -> None:
        """The app has used it, and there is nothing that a user saw: nothing is reported."""
        await self._inbox.finish(self.push_id)
