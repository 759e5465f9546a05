"""Processes on devices: real ones that are pinned, kept, killed, hung, and stopped."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import device_jobs as jobs
import pytest

from deployments.processes import lives
from nuggets.devices.devices import Device, find_devices
from nuggets.devices.worker_handle import ProcessLost
from nuggets.devices.worker_pool import WorkerPool, run_on_device, worker_pool
from nuggets.errors import InputError, Interrupted, StoreUnavailable, UsageError
from nuggets.stopping import clear_stop, request_stop

HERE = str(Path(__file__).parent)


def devices(count: int) -> list[Device]:
    return [Device(f"place {n}", {"PYTHONPATH": HERE, "PLACE": str(n)}) for n in range(count)]


@pytest.fixture
def one() -> Iterator[WorkerPool]:
    processes = WorkerPool(devices(1), stalled_after=30)
    yield processes
    processes.close()


@pytest.mark.parametrize(
    ("setting", "workers", "visible", "expected"),
    [
        ("auto", None, None, [("GPU 0", "0", "GPU-a"), ("GPU 1", "1", "GPU-b"), ("GPU 2", "2", "GPU-c")]),
        ("auto", None, "5,GPU-b,2", [("GPU 0", "5", "GPU-a"), ("GPU 1", "GPU-b", "GPU-b"), ("GPU 2", "2", "GPU-c")]),
        ("0,2", None, "5,6,7", [("GPU 0", "5", "GPU-a"), ("GPU 2", "7", "GPU-c")]),
        ("1,1", None, None, [("GPU 1", "1", "GPU-b"), ("GPU 1", "1", "GPU-b")]),
        ("cpu", None, None, [("CPU worker 0", "", None)]),
        ("cpu", 2, None, [("CPU worker 0", "", None), ("CPU worker 1", "", None)]),
    ],
)
def test_devices_on_a_machine_with_three_gpus(
    setting: str, workers: int | None, visible: str | None, expected: list
) -> None:
    devices = find_devices(setting, workers, visible=visible, gpu_uuids=lambda: ["GPU-a", "GPU-b", "GPU-c"])
    pinned = [(device.name, device.environment["CUDA_VISIBLE_DEVICES"], device.gpu_uuid) for device in devices]
    assert pinned == expected


def test_gpus_that_torch_does_not_see_and_workers_beside_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match=r"devices=0,3: there is no GPU 3; torch sees 0 to 1"):
        find_devices("0,3", None, visible=None, gpu_uuids=lambda: ["GPU-a", "GPU-b"])
    with pytest.raises(UsageError, match=r"workers=4 is for CPU.*devices=0,0"):
        find_devices("auto", 4, visible=None, gpu_uuids=lambda: ["GPU-a", "GPU-b"])
    with pytest.raises(UsageError, match="there is no GPU 0; torch sees none"):
        find_devices("0", None, visible=None, gpu_uuids=list)
    assert [device.name for device in find_devices("auto", None, visible=None)] == ["CPU worker 0"]


def test_workers_on_cpu_share_its_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    threads = [device.environment["OMP_NUM_THREADS"] for device in find_devices("cpu", 2, visible=None)]
    assert threads == [str(max(1, cores // 2))] * 2


def test_a_process_is_pinned_and_kept_from_job_to_job(one: WorkerPool) -> None:
    first, seen = one.call(jobs.where, "PLACE", "PATH")
    second, _ = one.call(jobs.where)
    assert first == second != os.getpid() and seen == ["0", os.environ["PATH"]]


def test_devices_work_at_the_same_time_and_no_two_jobs_on_one(tmp_path: Path) -> None:
    processes = WorkerPool(devices(2), stalled_after=60)
    with ThreadPoolExecutor(4) as threads:
        pair = [threads.submit(processes.call, jobs.meet, tmp_path, a, b) for a, b in (("a", "b"), ("b", "a"))]
        pids = {future.result() for future in pair}
        more = list(threads.map(lambda _: processes.call(jobs.where)[0], range(8)))
    processes.close()
    assert len(pids) == 2 and set(more) <= pids
    assert not any(lives(pid) for pid in pids)


def test_a_process_that_is_killed_fails_its_job_alone(one: WorkerPool) -> None:
    before, _ = one.call(jobs.where)
    with pytest.raises(ProcessLost, match=r"the process on place 0 has ended with exit code -9 \(killed: out of mem"):
        one.call(jobs.die)
    with pytest.raises(ProcessLost, match="exit code -11"):  # a fault in a kernel
        one.call(jobs.die, signal.SIGSEGV)
    after, _ = one.call(jobs.where)
    assert after != before and not lives(before)


def test_a_process_that_dies_between_two_jobs_is_replaced(one: WorkerPool) -> None:
    before, _ = one.call(jobs.where)
    os.kill(before, signal.SIGKILL)
    time.sleep(0.5)
    assert one.call(jobs.where)[0] != before


@pytest.fixture
def watched() -> Iterator[WorkerPool]:
    """A pool that takes a job for hung after 4 seconds."""
    pool = WorkerPool(devices(1), stalled_after=4)
    yield pool
    pool.close()


def test_a_slow_job_that_reports_progress_keeps_its_process(watched: WorkerPool) -> None:
    first, _ = watched.call(jobs.where)
    assert watched.call(jobs.work_on, 6, 0.5) == first


def test_a_job_that_loads_in_silence_for_longer_than_a_hang_keeps_its_process(watched: WorkerPool) -> None:
    first, _ = watched.call(jobs.where)
    assert watched.call(jobs.load, 6) == first


@pytest.mark.parametrize(
    ("job", "arguments", "what"),
    [
        (jobs.hang, (60,), "has made no progress for 4 seconds"),
        (jobs.load_and, ("hang", 60), "has made no progress for 4 seconds"),
        (jobs.hang_in_native_code, (60,), "has sent no heartbeat for 4 seconds"),
        (jobs.be_stopped, (), "has sent no heartbeat for 4 seconds"),
        (jobs.load_and, ("stop", 60), "has sent no heartbeat for 4 seconds"),
    ],
    ids=["hung on a GPU", "hung after loading", "hung in native code", "stopped", "stopped while loading"],
)
def test_a_process_that_hangs_is_replaced(watched: WorkerPool, job: Any, arguments: tuple, what: str) -> None:
    first, _ = watched.call(jobs.where)
    with pytest.raises(ProcessLost, match=what):
        watched.call(job, *arguments)
    assert not lives(first)
    assert watched.call(jobs.where)[0] != first


def test_errors_come_as_they_are_and_only_those_of_the_device_cost_its_process(one: WorkerPool) -> None:
    first, _ = one.call(jobs.where)
    with pytest.raises(InputError, match="bad pool"):
        one.call(jobs.fail, InputError("bad pool"))
    with pytest.raises(StoreUnavailable) as away:
        one.call(jobs.fail, StoreUnavailable("away"))
    assert away.value.retry_can_help and "device_jobs.py" in away.value.__notes__[0]
    assert one.call(jobs.where)[0] == first
    with pytest.raises(RuntimeError, match="illegal memory access"):
        one.call(jobs.fail, RuntimeError("CUDA error: an illegal memory access"))
    second, _ = one.call(jobs.where)
    assert second != first
    with pytest.raises(RuntimeError, match="Unsendable: 7: broken"):
        one.call(jobs.fail_unsendably)


def test_what_a_process_reports_is_reported_here(one: WorkerPool, caplog: pytest.LogCaptureFixture) -> None:
    cells = logging.getLogger("nuggets.progress.cells")
    cells.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger="nuggets"), caplog.at_level(logging.INFO, logger=cells.name):
        one.call(jobs.say, "halfway")
    cells.removeHandler(caplog.handler)
    assert [getattr(record, "cells_to_compute", record.getMessage()) for record in caplog.records] == [5, "halfway"]


def test_a_wish_to_stop_reaches_the_process_which_stores_what_it_has(tmp_path: Path, one: WorkerPool) -> None:
    threading.Timer(2, request_stop).start()
    try:
        with pytest.raises(Interrupted, match="all of it is stored"):
            one.call(jobs.work_until_told, tmp_path)
        assert (tmp_path / "stored").exists()
        with pytest.raises(Interrupted, match="the process on place 0 has ended"):
            one.call(jobs.die)
    finally:
        clear_stop()


def test_a_process_whose_starter_is_killed_stores_what_it_has_and_ends(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, device_jobs\n"
        "from nuggets.devices.worker_pool import WorkerPool\n"
        "from nuggets.devices.devices import Device\n"
        "processes = WorkerPool([Device('place', {})], stalled_after=60)\n"
        "processes.call(device_jobs.work_until_told, pathlib.Path(sys.argv[1]))\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=os.environ | {"PYTHONPATH": HERE})
    pid = tmp_path / "pid"
    end = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < end and starter.poll() is None
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    while lives(int(pid.read_text())):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (tmp_path / "stored").exists()


def test_a_device_that_fails_again_and_again_gets_no_more_work(caplog: pytest.LogCaptureFixture) -> None:
    processes = WorkerPool(devices(2), stalled_after=60)
    for _ in range(6):
        with pytest.raises(ProcessLost):
            processes.call(jobs.die)
    assert "has failed 3 times in a row and gets no more work in this run; 1 other devices continue" in caplog.text
    places = {processes.call(jobs.where, "PLACE")[1][0] for _ in range(3)}
    assert len(places) == 1  # the last one stays, whatever it does
    processes.close()


def test_without_processes_jobs_are_done_here_one_after_another(tmp_path: Path) -> None:
    at_once: list[int] = []
    here: list[int] = []

    def job() -> None:
        here.append(1)
        at_once.append(len(here))
        time.sleep(0.05)
        here.pop()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: run_on_device(job), range(3)))
    assert at_once == [1, 1, 1]
    with worker_pool(devices(1), stalled_after=30):
        assert run_on_device(jobs.where)[0] != os.getpid()
    assert run_on_device(jobs.where)[0] == os.getpid()


def test_a_gpu_is_of_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gpu = [Device("GPU 0", {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": HERE}, "GPU-7f")] * 2
    first, second = WorkerPool(gpu, stalled_after=30), WorkerPool(gpu, stalled_after=30)
    try:
        assert first.call(jobs.where)[0] != os.getpid()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(second.call, jobs.where)
            time.sleep(2)
            assert not waiting.done()
            first.close()
            assert waiting.result(timeout=20)[0] != os.getpid()
            second.close()
            assert first.call(jobs.where)[0] != os.getpid()  # closed, it begins anew
    finally:
        first.close()
        second.close()
