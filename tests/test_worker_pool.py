"""Processes on devices: real ones, that are pinned, kept, killed, hung, and told to stop."""

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

import device_jobs as jobs
import pytest

import nuggets.devices.devices
from deployments.processes import lives
from nuggets.devices.devices import Device, find_devices
from nuggets.devices.worker_pool import ProcessLost, WorkerPool, run_on_device, worker_pool
from nuggets.errors import InputError, Interrupted, StoreError, UsageError
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
        ("auto", None, None, [("GPU 0", "0"), ("GPU 1", "1"), ("GPU 2", "2")]),
        ("auto", None, "5,GPU-7f,2", [("GPU 0", "5"), ("GPU 1", "GPU-7f"), ("GPU 2", "2")]),
        ("0,2", None, "5,6,7", [("GPU 0", "5"), ("GPU 2", "7")]),
        ("1,1", None, None, [("GPU 1", "1"), ("GPU 1", "1")]),
        ("cpu", None, None, [("CPU worker 0", "")]),
        ("cpu", 2, None, [("CPU worker 0", ""), ("CPU worker 1", "")]),
    ],
)
def test_devices_on_a_machine_with_three_gpus(
    monkeypatch: pytest.MonkeyPatch, setting: str, workers: int | None, visible: str | None, expected: list
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = find_devices(setting, workers, visible=visible)
    assert [(device.name, device.environment["CUDA_VISIBLE_DEVICES"]) for device in found] == expected


def test_gpus_are_not_asked_for_twice_or_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nuggets.devices.devices, "_gpus", lambda _: ["0", "1"])
    with pytest.raises(UsageError, match=r"devices=0,3: GPU 3 is not here; torch sees 0 to 1"):
        find_devices("0,3", None, visible=None)
    with pytest.raises(UsageError, match=r"workers=4 is for CPU.*devices=0,0"):
        find_devices("auto", 4, visible=None)
    monkeypatch.setattr(nuggets.devices.devices, "_gpus", lambda _: [])
    with pytest.raises(UsageError, match="GPU 0 is not here; torch sees none"):
        find_devices("0", None, visible=None)
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


def test_a_process_without_a_sign_of_life_is_replaced_and_a_slow_one_is_not() -> None:
    processes = WorkerPool(devices(1), stalled_after=4)
    first, _ = processes.call(jobs.where)
    assert processes.call(jobs.work_on, 6, 0.5) == first
    with pytest.raises(ProcessLost, match="has shown no sign of life for 4 seconds"):
        processes.call(jobs.be_silent, 60)
    assert not lives(first)
    assert processes.call(jobs.where)[0] != first
    processes.close()


def test_errors_come_as_they_are_and_only_those_of_the_device_cost_its_process(one: WorkerPool) -> None:
    first, _ = one.call(jobs.where)
    with pytest.raises(InputError, match="bad pool"):
        one.call(jobs.fail, InputError("bad pool"))
    with pytest.raises(StoreError) as away:
        one.call(jobs.fail, StoreError("away", is_transient=True))
    assert away.value.is_transient and "device_jobs.py" in away.value.__notes__[0]
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
    assert "has failed 3 times in a row and gets no more work in this run; 1 other devices go on" in caplog.text
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
    gpu = [Device("GPU 0", {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": HERE})] * 2
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
