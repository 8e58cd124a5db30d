"""What can go wrong with the store, by what the caller does next."""


class StoreError(Exception):
    """The store refused a command: a defect or a misconfiguration, not worth repeating."""


class StoreUnavailable(StoreError):
    """No answer. The command may or may not have been executed: repeat it under its seq."""


class Fenced(StoreError):
    """A newer owner, or a newer start under this number, has taken over: stop acting."""


class ProducerFull(StoreError):
    """The bounded queue in front of the store is full: refuse the caller, nothing was taken."""


class LogFull(StoreUnavailable):
    """The log of the partition has as many entries as it may have; nothing was done. It gets shorter with
    the next snapshot: who keeps what it wanted to append tries again, others are refused."""


class Trimmed(StoreError):
    """A reader's position lies before what the log still holds: load the snapshot again."""


class Replaced(StoreError):
    """Another server has a partition than the one its state is from: load the partition again."""
