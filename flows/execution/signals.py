"""Ctrl-C and SIGTERM, which service managers and schedulers send: a wish to stop after the work in hand."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nuggets.stopping import request_stop, stop_requested

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received = signal.SIGINT  # the last of them; a process has one of each, whoever asks
_armed = False  # whether a command asked for this


@contextmanager
def signals_stop() -> Iterator[None]:
    """While this lasts, the first signal asks all work to end soon; the second ends the process."""
    global _armed
    with _handled(*_SIGNALS):
        _armed = True
        try:
            yield
        finally:
            _armed = False


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """The same inside a flow, where Prefect has put a SIGTERM handler of its own, which ends the process at once.

    Only for a command: a worker that cancels a flow run needs Prefect's.
    """
    if not _armed:
        yield
        return
    with _handled(signal.SIGTERM):
        yield


def interrupted_exit_code() -> int:
    """The exit code of a command that was interrupted, as shells count: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _received


@contextmanager
def _handled(*numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, _on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signal(number: int, _: FrameType | None) -> None:
    global _received
    _received = signal.Signals(number)
    if stop_requested():
        os._exit(interrupted_exit_code())  # at once; cells are lost only since the last commit
    request_stop()
    again = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    os.write(2, f"\nstopping after the work in hand; {again} again to stop at once\n".encode())
