"""Names of the tags that the service sets itself: nobody else may set or remove them."""

from typing import Final

REPORTED: Final = frozenset({"platform", "version", "lang", "tz", "country", "permission", "sdk"})
"""From what a device says of itself."""
SYSTEM_TAGS: Final = REPORTED | {"active", "new"}
"""What stands before the colon: `platform:android`, `active:7d`, `new:1d`."""


def is_system(tag: str) -> bool:
    return tag.partition(":")[0] in SYSTEM_TAGS
