"""Errors for users: each message names what is wrong, the value, and what to change."""

from typing import ClassVar


class NuggetsError(Exception):
    """Root of the errors that are shown as a message without a traceback.

    `retry_can_help`: whether the same may succeed later although the user changes nothing. Prefect's retries and the
    advice that the user reads follow from it.
    """

    retry_can_help: ClassVar[bool] = False


class UsageError(NuggetsError, ValueError):
    """A parameter is wrong or names something that is not there; nothing was started."""


class InputError(NuggetsError, ValueError):
    """The pool, the anchors or the model can't serve the run that was asked for."""


class OutOfMemory(InputError):
    """A device has no memory for a single pair: the pair is too large, or another program uses the memory."""

    retry_can_help = True


class StoreError(NuggetsError, OSError):
    """The store could not be read or written; what it already holds is untouched."""


class StoreUnavailable(StoreError):
    """The store could not be read or written for now: a server does not answer, or a disk is full."""

    retry_can_help = True


class DamagedTable(StoreError):
    """What is stored at an address is not the table that was written there."""


class Interrupted(NuggetsError):
    """A stop was requested; the cells computed before it are in the store."""
