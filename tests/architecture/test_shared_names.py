"""Names that two parts must agree on and neither may import from the other."""

from client_sdk import tags
from gateway import systemtags


def test_the_sdk_refuses_just_the_tags_that_the_service_sets_itself() -> None:
    assert set(tags.SYSTEM_NAMES) == set(systemtags.SYSTEM_TAGS)
