"""Lanes: forward passes side by side, each on one core, and nothing of it left behind."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import pytest
import torch

from nuggets.engine.pass_threads import open_pass_threads

CPU = torch.device("cpu")
PATIENCE = 20.0  # seconds after which something that should happen at once is taken not to happen


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lane")]


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


def test_each_lane_computes_with_one_thread_and_everyone_else_as_before(threads: int) -> None:
    everyone = threading.Barrier(threads)

    def threads_in_lane() -> int:
        everyone.wait(PATIENCE)
        return torch.get_num_threads()

    with open_pass_threads(CPU) as lanes:
        jobs = [lanes.submit(threads_in_lane) for _ in range(threads)]
        assert [job.result() for job in jobs] == [1] * threads
        assert torch.get_num_threads() == threads
        assert threads_of_a_new_thread() == threads
    assert torch.get_num_threads() == threads
    assert threads_of_a_new_thread() == threads


def test_there_are_as_many_lanes_as_torch_would_use_threads(threads: int) -> None:
    begun: list[int] = []
    release = threading.Event()

    def job() -> None:
        begun.append(threading.get_ident())
        assert release.wait(PATIENCE)

    with open_pass_threads(CPU) as lanes:
        jobs = [lanes.submit(job) for _ in range(threads + 1)]
        deadline = monotonic() + PATIENCE
        while len(begun) < threads and monotonic() < deadline:
            sleep(0.001)
        sleep(0.05)  # time in which one more would begin
        assert len(set(begun)) == len(begun) == threads
        release.set()
        for waiting in jobs:
            waiting.result(PATIENCE)
    assert len(begun) == threads + 1


def test_a_gpu_has_one_lane_and_torchs_threads_are_let_be(threads: int) -> None:
    with open_pass_threads(torch.device("cuda")) as lanes:
        idents = {lanes.submit(threading.get_ident).result() for _ in range(5)}
        assert lanes.submit(torch.get_num_threads).result() == threads
    assert len(idents) == 1


def test_what_the_caller_lets_out_cancels_what_waits_and_ends_the_threads() -> None:
    begun, release = threading.Event(), threading.Event()
    done: list[str] = []

    def job() -> None:
        begun.set()
        assert release.wait(PATIENCE)
        done.append("begun before")

    with pytest.raises(KeyError, match="the caller's"), open_pass_threads(CPU) as lanes:
        count = torch.get_num_threads()
        running = [lanes.submit(job) for _ in range(count)]
        waiting = [lanes.submit(done.append, "begun after") for _ in range(5)]
        assert begun.wait(PATIENCE)
        threading.Timer(0.05, release.set).start()  # while the lanes are being left
        raise KeyError("the caller's")
    assert lane_threads() == []
    assert all(job.cancelled() for job in waiting)
    assert all(job.done() for job in running)
    assert 1 <= done.count("begun before") <= count
    assert "begun after" not in done


def test_a_job_that_fails_leaves_the_lanes_usable() -> None:
    with open_pass_threads(CPU) as lanes:
        failing = [lanes.submit(lambda: 1 // 0) for _ in range(5)]
        for job in failing:
            with pytest.raises(ZeroDivisionError):
                job.result(PATIENCE)
        assert lanes.submit(lambda: 7).result(PATIENCE) == 7


def at_the_same_time(count: int, job: Callable[[], None]) -> None:
    start = threading.Barrier(count)

    def run() -> None:
        start.wait(PATIENCE)
        job()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_lanes_opened_at_the_same_time_leave_torchs_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def open_them() -> None:
        torch.get_num_threads()  # the first call in a thread takes over the number that holds for new threads then
        with open_pass_threads(CPU) as lanes:
            lanes.submit(torch.get_num_threads).result(PATIENCE)

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
    with open_pass_threads(torch.device("cpu")) as lanes:
        print("opened", lanes.submit(torch.get_num_threads).result())
except RuntimeError as error:
    print(error)
"""


def test_a_thread_that_cannot_be_started_is_an_error_and_not_a_wait_without_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_ROOM_FOR_A_SECOND_THREAD], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    assert "can't start new thread" in done.stdout
