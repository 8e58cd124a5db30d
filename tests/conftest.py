"""What all tests share."""

from hypothesis import settings

# How long an example takes says something of the machine and its other work, nothing of our code.
settings.register_profile("columba", deadline=None)
settings.load_profile("columba")
