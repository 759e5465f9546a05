"""A process per device: pinned to it, its model kept from job to job, replaced when it dies or hangs."""

import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from logging import LogRecord, getLogger
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from nuggets.devices.devices import Device
from nuggets.devices.gpu_locks import lock_gpus, unlock_gpus
from nuggets.errors import Interrupted, NuggetsError, OutOfMemory
from nuggets.stopping import stop_requested

T = TypeVar("T")
_LOOK_SECONDS = 0.5  # between two looks at whether someone asked to stop
_FAILURES = 3  # in a row; then a device gets no more jobs, or it would fail all that others could do
logger = getLogger(__name__)


class ProcessLost(RuntimeError):
    """A device's process has died or hung; what it had stored is there, and the same job may succeed elsewhere."""


@dataclass
class _Worker:
    """A device and, once it was needed, the process there."""

    device: Device
    failures: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    connection: Connection | None = None

    def run(self, function: Callable[..., T], arguments: tuple[Any, ...], stalled_after: float) -> T:
        connection = self._started()
        try:
            connection.send_bytes(pickle.dumps((function, arguments)))
        except OSError:
            raise self._lost() from None
        answer = self._answer(connection, stalled_after)
        if isinstance(answer, BaseException):
            # After some errors of a GPU all that its process tries fails; after others its passes are tiny.
            if isinstance(answer, OutOfMemory) or not isinstance(answer, NuggetsError):
                self.end()
            raise answer
        return answer  # type: ignore[no-any-return]

    def _started(self) -> Connection:
        if self.connection is not None and self.process is not None and self.process.poll() is None:
            return self.connection
        self.end()
        ours, theirs = socket.socketpair()
        with theirs:
            # Not multiprocessing's own start: it imports the main module again, which is Prefect under a worker.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nuggets.devices.worker", str(theirs.fileno())],
                env=os.environ | dict(self.device.environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for us: we tell it to store what it has
            )
        self.connection = Connection(ours.detach())
        return self.connection

    def _answer(self, connection: Connection, stalled_after: float) -> Any:
        heard = time.monotonic()
        told = False
        while True:
            if stop_requested() and not told:
                told = True
                self._tell_to_stop(connection)
            if not connection.poll(_LOOK_SECONDS):
                if time.monotonic() - heard > stalled_after:
                    raise self._lost(f"has shown no sign of life for {stalled_after:g} seconds")
                continue
            try:
                message = connection.recv()
            except (EOFError, OSError):
                raise self._lost() from None
            heard = time.monotonic()
            if not isinstance(message, LogRecord):
                return message[0]
            target = getLogger(message.name)
            if target.isEnabledFor(message.levelno):
                target.handle(message)

    def _tell_to_stop(self, connection: Connection) -> None:
        try:
            connection.send_bytes(b"")
        except OSError:
            raise self._lost() from None

    def _lost(self, what: str = "") -> Exception:
        """The error that says how the process was lost; there is none at its seat afterwards."""
        process = self.process
        assert process is not None
        if not what:
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                what = "has closed its connection"
            else:
                memory = " (killed: out of memory?)" if code == -9 else ""
                what = f"has ended with exit code {code}{memory}"
        self.end()
        if stop_requested():
            return Interrupted(f"stopped on request, and the process on {self.device.name} {what}")
        return ProcessLost(
            f"the process on {self.device.name} {what}. What it had stored is kept, and another process does the rest"
        )

    def end(self) -> None:
        """Kill the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.connection is not None:
            self.connection.close()
        self.process = self.connection = None


@dataclass
class WorkerPool:
    """Does jobs on devices, one at a time on each; threads that ask for more wait."""

    devices: Sequence[Device]
    stalled_after: float  # seconds without a sign of life after which a process is hung; loading a model is silent, too
    _free: "queue.SimpleQueue[_Worker]" = field(default_factory=queue.SimpleQueue, init=False)
    _seats: list[_Worker] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _claims: list[int] | None = field(default=None, init=False)
    _claiming: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._seats = [_Worker(device) for device in self.devices]
        for seat in self._seats:
            self._free.put(seat)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the importable `function` returns or raises on the next free device.

        Raises ProcessLost if the process dies or hangs, Interrupted if it does so while stopping.
        """
        self._claim()
        seat = self._free.get()
        try:
            result = seat.run(function, arguments, self.stalled_after)
            seat.failures = 0
            return result
        except NuggetsError:  # nothing is wrong with the device
            raise
        except Exception:
            seat.failures += 1
            raise
        finally:
            if self._stays(seat):
                self._free.put(seat)

    def _stays(self, seat: _Worker) -> bool:
        """Whether a device goes on being used: not after several failures in a row, unless it is the last."""
        with self._lock:
            if seat.failures < _FAILURES or len(self._seats) == 1:
                return True
            self._seats.remove(seat)
        seat.end()
        logger.warning(
            "%s has failed %d times in a row and gets no more work in this run; %d other devices go on",
            seat.device.name,
            seat.failures,
            len(self._seats),
        )
        return False

    def _claim(self) -> None:
        with self._claiming:
            if self._claims is None:
                names = (device.environment.get("CUDA_VISIBLE_DEVICES", "") for device in self.devices)
                self._claims = lock_gpus(filter(None, names))

    def close(self) -> None:
        """End all processes, and let others have their GPUs. Another call begins anew."""
        for seat in self._seats:
            seat.end()
        with self._claiming:
            unlock_gpus(self._claims or ())
            self._claims = None


_current: ContextVar[WorkerPool | None] = ContextVar("worker_pool", default=None)
_here = threading.Lock()


@contextmanager
def worker_pool(devices: Sequence[Device], *, stalled_after: float) -> Iterator[WorkerPool]:
    """While this lasts, `run_on_device` means a process on one of these devices, in this thread and those begun from it."""
    processes = WorkerPool(devices, stalled_after)
    token = _current.set(processes)
    try:
        yield processes
    finally:
        _current.reset(token)
        processes.close()


def run_on_device(function: Callable[..., T], *arguments: Any) -> T:
    """What `function` returns on the next free device: in its process, or in this one where nobody has opened any.

    In this process jobs are done one after another, since each would load the model, and use all of the device.
    """
    processes = _current.get()
    if processes is not None:
        return processes.call(function, *arguments)
    with _here:
        return function(*arguments)
