"""A request to stop, which long work looks at between two candidates: what is pending is stored before it ends."""

import threading

from nuggets.errors import Interrupted

_requested = threading.Event()


def request_stop() -> None:
    """Ask all work of this process to end soon; callable from a signal handler."""
    _requested.set()


def stop_requested() -> bool:
    """Whether someone asked this process to stop."""
    return _requested.is_set()


def check_stop() -> None:
    """Raise Interrupted if someone asked this process to stop: for the places between two pieces of work."""
    if stop_requested():
        raise Interrupted("stopped on request")


def clear_stop() -> None:
    """Forget an earlier request: a new run begins."""
    _requested.clear()
