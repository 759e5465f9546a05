"""Jobs for tests of device processes, which have to be importable there."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from nuggets.errors import Interrupted
from nuggets.progress import quiet_phase, report_cells, report_stage
from nuggets.stopping import stop_requested


class Unsendable(Exception):
    """An error that can be pickled and not unpickled, as some libraries' can."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def where(*names: str) -> tuple[int, list[str | None]]:
    """The process, and what it finds in its environment."""
    return os.getpid(), [os.environ.get(name) for name in names]


def meet(folder: Path, name: str, other: str) -> int:
    """Wait for another job, which has to run at the same time."""
    (folder / name).touch()
    end = time.monotonic() + 60
    while not (folder / other).exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{other} did not come")
        time.sleep(0.01)
    return os.getpid()


def die(number: int = signal.SIGKILL) -> None:
    """End the process, as the kernel does when memory is short."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def hang(seconds: float) -> int:
    """Report nothing for this time, while the interpreter runs, as it does during a call of a GPU."""
    time.sleep(seconds)
    return os.getpid()


def hang_in_native_code(seconds: int) -> None:
    """Hold the interpreter's lock for this time, so that no other thread of the process runs."""
    ctypes.PyDLL(None).sleep(seconds)


def be_stopped() -> None:
    """Stop the process, as a debugger or an operator does."""
    os.kill(os.getpid(), signal.SIGSTOP)


def load(seconds: float) -> int:
    """Load for this time, announced and in silence."""
    with quiet_phase("loading"):
        time.sleep(seconds)
    return os.getpid()


def load_and(then: str, seconds: float) -> None:
    """Something that goes wrong while, or after, a quiet phase."""
    if then == "hang":
        load(0.1)
        hang(seconds)
    with quiet_phase("loading"):
        be_stopped()


def work_on(seconds: float, every: float) -> int:
    """Take this time, and report progress."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        report_cells(computed=1)
        time.sleep(every)
    return os.getpid()


def fail(error: Exception) -> None:
    """Raise it."""
    raise error


def fail_unsendably() -> None:
    """Raise what can't be sent as it is."""
    raise Unsendable(7, "broken")


def say(text: str) -> None:
    """Report something, and some cells."""
    report_cells(to_compute=5)
    report_stage(text)


def work_until_told(folder: Path) -> Any:
    """Work until asked to stop, then store what there is."""
    (folder / "pid").write_text(str(os.getpid()))
    end = time.monotonic() + 60
    while not stop_requested():
        if time.monotonic() > end:
            raise TimeoutError("no stop was requested")
        time.sleep(0.01)
    (folder / "stored").touch()
    raise Interrupted("stopped on request; all of it is stored")
