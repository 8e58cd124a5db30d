"""What all tests share."""

from hypothesis import settings

# The same examples each time: a run of the tests says something of the change, not of its luck. Now and then look
# further, with others each time: pytest --hypothesis-profile=explore
# How long an example takes says something of the machine and its other work, nothing of our code.
settings.register_profile("columba", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("columba")
