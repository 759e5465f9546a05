"""Pass threads: forward passes side by side, each on one core, and torch's settings restored."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import pytest
import torch

from nuggets.engine.pass_threads import open_pass_threads

CPU = torch.device("cpu")
TIMEOUT = 20.0  # seconds after which a test that waits has failed


def pass_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("forward pass")]


def threads_of_a_new_thread() -> int:
    """torch.get_num_threads() as a thread that starts now finds it."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads that torch would use, set for one test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_each_pass_thread_computes_on_one_core_and_other_threads_as_before(threads: int) -> None:
    everyone = threading.Barrier(threads)

    def threads_in_pass() -> int:
        everyone.wait(TIMEOUT)
        return torch.get_num_threads()

    with open_pass_threads(CPU) as pool:
        jobs = [pool.submit(threads_in_pass) for _ in range(threads)]
        assert [job.result() for job in jobs] == [1] * threads
        assert torch.get_num_threads() == threads
        assert threads_of_a_new_thread() == threads
    assert torch.get_num_threads() == threads
    assert threads_of_a_new_thread() == threads


def test_there_are_as_many_pass_threads_as_torch_would_use(threads: int) -> None:
    begun: list[int] = []
    release = threading.Event()

    def job() -> None:
        begun.append(threading.get_ident())
        assert release.wait(TIMEOUT)

    with open_pass_threads(CPU) as pool:
        jobs = [pool.submit(job) for _ in range(threads + 1)]
        deadline = monotonic() + TIMEOUT
        while len(begun) < threads and monotonic() < deadline:
            sleep(0.001)
        sleep(0.05)  # time in which one more would begin
        assert len(set(begun)) == len(begun) == threads
        release.set()
        for waiting in jobs:
            waiting.result(TIMEOUT)
    assert len(begun) == threads + 1


def test_a_gpu_has_one_pass_thread_and_torchs_number_of_threads_stays(threads: int) -> None:
    with open_pass_threads(torch.device("cuda")) as pool:
        idents = {pool.submit(threading.get_ident).result() for _ in range(5)}
        assert pool.submit(torch.get_num_threads).result() == threads
    assert len(idents) == 1


def test_an_error_of_the_caller_cancels_waiting_passes_and_ends_the_threads() -> None:
    begun, release = threading.Event(), threading.Event()
    done: list[str] = []

    def job() -> None:
        begun.set()
        assert release.wait(TIMEOUT)
        done.append("begun before")

    with pytest.raises(KeyError, match="the caller's"), open_pass_threads(CPU) as pool:
        count = torch.get_num_threads()
        running = [pool.submit(job) for _ in range(count)]
        waiting = [pool.submit(done.append, "begun after") for _ in range(5)]
        assert begun.wait(TIMEOUT)
        threading.Timer(0.05, release.set).start()  # while the context is being left
        raise KeyError("the caller's")
    assert pass_threads() == []
    assert all(job.cancelled() for job in waiting)
    assert all(job.done() for job in running)
    assert 1 <= done.count("begun before") <= count
    assert "begun after" not in done


def test_a_pass_that_fails_leaves_the_threads_usable() -> None:
    with open_pass_threads(CPU) as pool:
        failing = [pool.submit(lambda: 1 // 0) for _ in range(5)]
        for job in failing:
            with pytest.raises(ZeroDivisionError):
                job.result(TIMEOUT)
        assert pool.submit(lambda: 7).result(TIMEOUT) == 7


def at_the_same_time(count: int, job: Callable[[], None]) -> None:
    start = threading.Barrier(count)

    def run() -> None:
        start.wait(TIMEOUT)
        job()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_contexts_opened_at_the_same_time_restore_torchs_number_of_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def open_them() -> None:
        torch.get_num_threads()  # the first call in a thread takes over the number that holds for new threads then
        with open_pass_threads(CPU) as pool:
            pool.submit(torch.get_num_threads).result(TIMEOUT)

    try:
        for _ in range(30):
            at_the_same_time(4, open_them)
        assert threads_of_a_new_thread() == 2
    finally:
        torch.set_num_threads(before)


_NO_ROOM_FOR_A_SECOND_THREAD = """
import resource, threading
from pathlib import Path
import torch
from nuggets.engine.pass_threads import open_pass_threads

torch.set_num_threads(2)
pages = int(Path("/proc/self/statm").read_text().split()[0])
threading.stack_size(1 << 30)  # address space only
limit = pages * resource.getpagesize() + 3 * (1 << 29)  # a stack and a half
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    with open_pass_threads(torch.device("cpu")) as pool:
        print("opened", pool.submit(torch.get_num_threads).result())
except RuntimeError as error:
    print(error)
"""


def test_a_thread_that_cannot_be_started_is_an_error_and_not_a_wait_without_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_ROOM_FOR_A_SECOND_THREAD], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "can't start new thread" in done.stdout
