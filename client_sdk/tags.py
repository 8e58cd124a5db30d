"""The tags of a device, one by one; the profile they belong to always travels whole."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Final

from client_sdk.profile_writer import ProfileWriter
from client_sdk.state import Profile, check_tags

SYSTEM_NAMES: Final = frozenset(
    {
        *("platform", "version", "lang", "tz", "country", "permission", "sdk"),
        *("new", "active"),
    }
)
"""Tags `name` and `name:value` of these names are the service's to set; it leaves a device's out."""


class Tags(Collection[str]):
    """Read it like a set: what is on disk, in order. A change is on disk when its call returns, and
    is sent until the service has acknowledged it, across restarts; attributes stay as they are.

    Changes raise ValueError for what the service would refuse, StorageError and DeviceClosed; then
    all tags are as they were.
    """

    def __init__(self, writer: ProfileWriter) -> None:
        self._writer = writer

    def __contains__(self, tag: object) -> bool:
        return tag in self._writer.current().tags

    def __iter__(self) -> Iterator[str]:
        return iter(self._writer.current().tags)

    def __len__(self) -> int:
        return len(self._writer.current().tags)

    async def add(self, *tags: str) -> None:
        """Those that are there already are left alone."""
        named = _checked(tags)
        await self._change(lambda held: held | named)

    async def remove(self, *tags: str) -> None:
        """Those that are not there are passed over."""
        _checked(tag for tag in tags if tag not in self)  # what is there may go, whatever it is
        await self._change(lambda held: held - {*tags})

    async def set(self, tags: Iterable[str]) -> None:
        """These and no others."""
        if isinstance(tags, str):  # which is an iterable of strings, too
            raise TypeError(f"{tags!r}: expected a list of tags, not one tag")
        named = _checked(tags)
        await self._change(lambda _: named)

    async def _change(self, edit: Callable[[frozenset[str]], frozenset[str]]) -> None:
        def edited(profile: Profile) -> Profile:
            held = frozenset(profile.tags)
            wanted = edit(held)
            return profile if wanted == held else replace(profile, tags=sorted(wanted))

        await self._writer.change(edited)


def _checked(tags: Iterable[str]) -> frozenset[str]:
    """Raises ValueError, and TypeError for what is no string."""
    named = list(tags)
    for tag in named:
        if not isinstance(tag, str):
            raise TypeError(f"{tag!r}: a tag is a string")
        if (name := tag.partition(":")[0]) in SYSTEM_NAMES:
            raise ValueError(f"{tag!r}: tags named {name!r} are the service's to set")
    check_tags(named)
    return frozenset(named)
