"""Errors for users: each message names what is wrong, the value, and what to change."""


class NuggetsError(Exception):
    """Root of the errors that are shown as a message without a traceback."""


class UsageError(NuggetsError, ValueError):
    """A parameter is wrong or names something that is not there; nothing was started."""


class InputError(NuggetsError, ValueError):
    """The pool, the anchors or the model can't serve the run that was asked for."""


class OutOfMemory(InputError):
    """A device has no memory for a single pair: the pair is too large, or another program uses the memory."""


class StoreError(NuggetsError, OSError):
    """The store could not be read or written; what it already holds is untouched.

    `is_transient`: whether the same may succeed later, because a server was unreachable or a disk full.
    """

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class DamagedTable(StoreError):
    """What is stored at an address is not the table that was written there."""


class Interrupted(NuggetsError):
    """A stop was requested; the cells computed before it are in the store."""
