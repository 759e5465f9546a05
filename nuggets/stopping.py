"""A request to stop. Long work checks it between two candidates, and stores what is pending before it ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from nuggets.errors import Interrupted

_ON_REQUEST = "stopped on request"
_requested = threading.Event()
_reason = _ON_REQUEST  # of the first request
# The request of one piece of work: a process of a cluster may work for several runs.
_own: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


def request_stop(reason: str = _ON_REQUEST) -> None:
    """Request that all work of this process stops; callable from a signal handler. The first reason is kept."""
    global _reason
    if not _requested.is_set():
        _reason = reason
        _requested.set()


@contextmanager
def stopped_by(event: threading.Event) -> Iterator[None]:
    """Inside, `event` is also a request to stop, for the work of this context only."""
    token = _own.set(event)
    try:
        yield
    finally:
        _own.reset(token)


def stop_requested() -> bool:
    """Whether a stop of this process, or of this piece of work in it, was requested."""
    own = _own.get()
    return _requested.is_set() or (own is not None and own.is_set())


def check_stop() -> None:
    """Raise Interrupted with the reason if a stop was requested; called between two pieces of work."""
    if stop_requested():
        raise Interrupted(_reason)


def clear_stop() -> None:
    """Clear an earlier request to this process when a new run begins."""
    global _reason
    _reason = _ON_REQUEST
    _requested.clear()
