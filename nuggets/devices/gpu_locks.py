"""Locks on this machine's GPUs: two runs on one GPU would run out of its memory, so the second one waits.

A lock is keyed by the GPU's UUID. Its number does not identify it: two jobs of a batch system may both see their GPU
as 0, and CUDA_VISIBLE_DEVICES may name one GPU by number in one run and by UUID in another.
"""

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from nuggets.progress import report_stage
from nuggets.stopping import check_stop, stop_requested

_POLL_SECONDS = 1.0


def lock_gpus(uuids: Iterable[str], *, folder: Path | None = None) -> ExitStack:
    """Wait until no other process has locked one of these GPUs, and lock them until the returned stack is closed.

    The kernel releases the locks of a process that ends, however it ends. Raises Interrupted if a stop is requested
    meanwhile.
    """
    locks = ExitStack()
    try:
        for uuid in sorted(set(uuids)):  # in one order, or two runs could wait for each other
            locks.enter_context(_lock(uuid, folder or Path(tempfile.gettempdir())))
    except BaseException:
        locks.close()
        raise
    return locks


def _lock(uuid: str, folder: Path) -> AcquireReturnProxy[FileLock]:
    # Writable for all users, because they lock the same file. Not thread-local: one thread locks, another one releases.
    lock = FileLock(folder / f"nuggets-{uuid.replace('/', '_')}.lock", mode=0o666, thread_local=False)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        report_stage(f"{uuid} is in use by another run on this machine: waiting for it")
    try:
        return lock.acquire(poll_interval=_POLL_SECONDS, cancel_check=stop_requested)
    except Timeout:
        check_stop()
        raise
