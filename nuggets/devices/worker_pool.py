"""One worker process per device: pinned to it, keeping its model from job to job, replaced when it dies or hangs.

concurrent.futures.ProcessPoolExecutor is not suitable: all jobs fail when one process dies, a process that hangs is
never detected, and a running job cannot be asked to store what it has and stop.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any, TypeVar

from nuggets.devices.devices import Device
from nuggets.devices.gpu_locks import lock_gpus
from nuggets.devices.worker_handle import Worker
from nuggets.errors import NuggetsError

T = TypeVar("T")
_FAILURES = 3  # in a row; then a device gets no more jobs, or it would fail jobs that other devices can do
logger = getLogger(__name__)


@dataclass
class WorkerPool:
    """Runs one job at a time per device; callers block until a device is free. For `stalled_after` see Worker."""

    devices: Sequence[Device]
    stalled_after: float  # seconds
    _free: "queue.SimpleQueue[Worker]" = field(default_factory=queue.SimpleQueue, init=False)
    _workers: list[Worker] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _gpu_locks: ExitStack | None = field(default=None, init=False)
    _locking_gpus: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._workers = [Worker(device) for device in self.devices]
        for worker in self._workers:
            self._free.put(worker)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the importable `function` returns or raises on the next free device.

        Raises ProcessLost if the process dies or hangs, Interrupted if it does so after a request to stop.
        """
        self._lock_gpus()
        worker = self._free.get()
        try:
            result = worker.run(function, arguments, self.stalled_after)
            worker.failures = 0
            return result
        except NuggetsError:  # no fault of the device
            raise
        except Exception:
            worker.failures += 1
            raise
        finally:
            if not self._retired(worker):
                self._free.put(worker)

    def _retired(self, worker: Worker) -> bool:
        """Whether a device gets no more jobs: after several failures in a row, unless it is the last one."""
        with self._lock:
            if worker.failures < _FAILURES or len(self._workers) == 1:
                return False
            self._workers.remove(worker)
        worker.end()
        logger.warning(
            "%s has failed %d times in a row and gets no more work in this run; %d other devices continue",
            worker.device.name,
            worker.failures,
            len(self._workers),
        )
        return True

    def _lock_gpus(self) -> None:
        with self._locking_gpus:
            if self._gpu_locks is None:
                self._gpu_locks = lock_gpus(device.gpu_uuid for device in self.devices if device.gpu_uuid)

    def close(self) -> None:
        """End all processes and release the GPUs. Another call starts and locks them again."""
        for worker in self._workers:
            worker.end()
        with self._locking_gpus:
            if self._gpu_locks is not None:
                self._gpu_locks.close()
            self._gpu_locks = None


_current: ContextVar[WorkerPool | None] = ContextVar("worker_pool", default=None)
_in_this_process = threading.Lock()


@contextmanager
def worker_pool(devices: Sequence[Device], *, stalled_after: float) -> Iterator[WorkerPool]:
    """While this lasts, `run_on_device` uses these devices, in this thread and in those started from its context."""
    pool = WorkerPool(devices, stalled_after)
    token = _current.set(pool)
    try:
        yield pool
    finally:
        _current.reset(token)
        pool.close()


def run_on_device(function: Callable[..., T], *arguments: Any) -> T:
    """What `function` returns on the next free device of the open pool; without a pool, in this process.

    In this process jobs run one after another, because each one would load the model and use the whole device.
    """
    pool = _current.get()
    if pool is not None:
        return pool.call(function, *arguments)
    with _in_this_process:
        return function(*arguments)
