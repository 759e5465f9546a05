"""Threads that forward passes run on, side by side."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock

import torch

_settling = Lock()  # how many threads torch gives to new ones is everyone's: one at a time may change it


@contextmanager
def open_pass_threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """As many lanes as torch would use threads, each computing on one core; on a GPU a single one, which launches.

    Passes side by side beat one pass on all cores: no core waits at the end of every operation for the slowest. On a
    GPU the caller goes on tokenising and packing while the lane waits for the device.

    Leaving cancels what has not begun and waits for what has.
    """
    if device.type != "cpu":
        count = 1
    else:
        with _settling:
            count = torch.get_num_threads()
    lanes = ThreadPoolExecutor(count, thread_name_prefix="lane")
    try:
        if device.type == "cpu":
            _one_core_each(lanes, count)
        yield lanes
    finally:
        lanes.shutdown(wait=True, cancel_futures=True)


def _one_core_each(lanes: ThreadPoolExecutor, count: int) -> None:
    ready = Barrier(count)  # or one lane could take all of these jobs

    def settle() -> None:
        torch.get_num_threads()  # or the thread takes over everyone's number the first time that it needs one
        torch.set_num_threads(1)
        ready.wait()

    with _settling, ThreadPoolExecutor(1) as bystander:  # it alone sees and sets what new threads get
        everyones = bystander.submit(torch.get_num_threads).result()
        try:
            for job in [lanes.submit(settle) for _ in range(count)]:
                job.result()
        finally:
            ready.abort()  # of use only where a thread could not be started: the others would wait for it for ever
            bystander.submit(torch.set_num_threads, everyones).result()
