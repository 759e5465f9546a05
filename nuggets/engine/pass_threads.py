"""Threads that run forward passes side by side."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock

import torch

_setting = Lock()  # the number of threads that torch gives to new threads is process-wide: serialize changes


@contextmanager
def open_pass_threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """On a CPU as many threads as torch would use, each computing on one core; on a GPU one thread, which launches.

    Passes side by side are faster than one pass on all cores: in that one, every operation ends with all cores waiting
    for the slowest. On a GPU the caller tokenizes and packs while this thread waits for the device.

    Leaving cancels passes that have not begun and waits for those that have.
    """
    if device.type != "cpu":
        count = 1
    else:
        with _setting:
            count = torch.get_num_threads()
    threads = ThreadPoolExecutor(count, thread_name_prefix="forward pass")
    try:
        if device.type == "cpu":
            _use_one_core_each(threads, count)
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _use_one_core_each(threads: ThreadPoolExecutor, count: int) -> None:
    ready = Barrier(count)  # or one thread could take all of these jobs

    def use_one_core() -> None:
        torch.get_num_threads()  # torch sets a thread's number at its first use: force it now, or it replaces the next
        torch.set_num_threads(1)
        ready.wait()

    # torch.set_num_threads changes the number for new threads, too: a further thread reads it before and restores it.
    with _setting, ThreadPoolExecutor(1) as bystander:
        before = bystander.submit(torch.get_num_threads).result()
        try:
            for job in [threads.submit(use_one_core) for _ in range(count)]:
                job.result()
        finally:
            ready.abort()  # where a thread could not be started, the others would wait for it for ever
            bystander.submit(torch.set_num_threads, before).result()
