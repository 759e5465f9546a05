"""A request to stop, which long work looks at between two candidates: what is pending is stored before it ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from nuggets.errors import Interrupted

_requested = threading.Event()
# Of a piece of work, where one process may do several for different people: a cluster's does.
_own: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


def request_stop() -> None:
    """Ask all work of this process to end soon; callable from a signal handler."""
    _requested.set()


@contextmanager
def stopped_by(event: threading.Event) -> Iterator[None]:
    """While this lasts, `event` is a request to stop, too, for what is done in this context and nothing else."""
    token = _own.set(event)
    try:
        yield
    finally:
        _own.reset(token)


def stop_requested() -> bool:
    """Whether someone asked this process, or this piece of work in it, to stop."""
    own = _own.get()
    return _requested.is_set() or (own is not None and own.is_set())


def check_stop() -> None:
    """Raise Interrupted if someone asked to stop: for the places between two pieces of work."""
    if stop_requested():
        raise Interrupted("stopped on request")


def clear_stop() -> None:
    """Forget an earlier request to this process: a new run begins."""
    _requested.clear()
