"""What an app iterates over: messages, and events about messages."""

from collections.abc import Callable
from typing import Self

from client_sdk.events import Event
from client_sdk.inbox import Inbox
from client_sdk.message import Message

Failure = Callable[[], Exception | None]
"""Why the device stopped by itself, if it did."""


class Messages:
    """The messages of a device, each once; any number of tasks may share the work."""

    def __init__(self, inbox: Inbox, failure: Failure) -> None:
        self._inbox = inbox
        self._failure = failure

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        stored = await self._inbox.next()
        if stored is not None:
            return Message(stored, self._inbox)
        if (error := self._failure()) is not None:
            raise error
        raise StopAsyncIteration


class Events:
    """The events of a device, each at least once; for one task at a time.

    To ask for the next one says that the app is through with the last one. An event that was not
    followed by another question comes again, to the next iterator or in the next run.
    """

    def __init__(self, inbox: Inbox, failure: Failure) -> None:
        self._inbox = inbox
        self._failure = failure
        self._last: Event | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        taken, self._last = self._last, None
        self._last = await self._inbox.next_event(taken)
        if self._last is not None:
            return self._last
        if (error := self._failure()) is not None:
            raise error
        raise StopAsyncIteration
