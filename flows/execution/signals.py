"""Signals to a command: the first one requests a stop, and the command's exit code names it."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from nuggets.stopping import request_stop, stop_requested

_STANDARD_STREAMS = (0, 1, 2)
_received = signal.SIGINT  # the last signal; signal handlers belong to the process, and so do these three
_is_command = False  # whether this process is a command
_terminals: list[int] = []  # the standard streams that are a terminal


@contextmanager
def signals_stop() -> Iterator[None]:
    """While this lasts, Ctrl-C, SIGTERM or a closed terminal requests a stop of all work.

    A second Ctrl-C or SIGTERM ends the process.
    """
    global _is_command
    _terminals[:] = [stream for stream in _STANDARD_STREAMS if os.isatty(stream)]
    with _handled(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        _is_command = True
        try:
            yield
        finally:
            _is_command = False


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """Handle SIGTERM as `signals_stop` does, inside a flow, where Prefect has installed another handler.

    Only in a command: a worker that cancels a flow run needs Prefect's handler.
    """
    if not _is_command:
        yield
        return
    with _handled(signal.SIGTERM):
        yield


def is_command() -> bool:
    """Whether `signals_stop` is in effect."""
    return _is_command


def write_nowhere(streams: Iterable[int] = _STANDARD_STREAMS) -> None:
    """Connect standard streams to nothing, after their reader has closed: each line would raise an error in a run."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in streams:
            os.dup2(nowhere, stream)
        os.close(nowhere)


def interrupted_exit_code() -> int:
    """The exit code of an interrupted command, as shells define it: 128 and the number of the signal.

    130 after Ctrl-C, 143 after SIGTERM, 129 after its terminal was closed. 130 also after a cancellation in Prefect.
    """
    return 128 + _received


@contextmanager
def _handled(*numbers: signal.Signals) -> Iterator[None]:
    # A signal that is ignored when the command starts stays ignored: nohup ignores SIGHUP.
    before = {number: signal.getsignal(number) for number in numbers}
    changed = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in changed:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])


def _on_signal(number: int, _: FrameType | None) -> None:
    global _received
    is_again = stop_requested()
    if number == signal.SIGHUP:
        write_nowhere(_terminals)
    elif is_again:
        _received = signal.Signals(number)
        os._exit(interrupted_exit_code())  # at once; only cells since the last commit are lost
    if is_again:
        return  # shell and kernel both send SIGHUP when a terminal is closed
    _received = signal.Signals(number)
    request_stop()
    again = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    with suppress(OSError):
        os.write(2, f"\nstopping after the current work; {again} again to stop at once\n".encode())
