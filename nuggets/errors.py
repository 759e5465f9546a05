"""The errors that a user is meant to read: each message says what was wrong, with what value, and what to change."""


class NuggetsError(Exception):
    """Root of the errors whose message alone, without a traceback, tells a user what happened."""


class UsageError(NuggetsError, ValueError):
    """A parameter is wrong or names something that is not there; nothing was started."""


class InputError(NuggetsError, ValueError):
    """The pool, the anchors or the model can't serve the run that was asked for."""


class OutOfMemory(InputError):
    """A device has no room for a single pair: it is too large, or somebody else has taken the memory for a while."""


class StoreError(NuggetsError, OSError):
    """The store could not be read or written; what it already holds is untouched.

    `is_transient`: whether the same may succeed later, because a server was away or a disk full.
    """

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class DamagedTable(StoreError):
    """What is stored at an address is not the table that was written there."""


class Interrupted(NuggetsError):
    """Someone asked the run to stop; what was computed until then is in the store."""
