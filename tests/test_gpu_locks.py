"""Two runs on one machine do not share a GPU: the second one waits, however the first one ends."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nuggets.devices.devices import find_devices
from nuggets.devices.gpu_locks import lock_gpus
from nuggets.errors import Interrupted
from nuggets.stopping import stopped_by

# UUIDs of the GPUs that torch sees come from the command line: the only part of a GPU that this needs.
_OTHER_RUN = """
import sys, time, pathlib
from nuggets.devices.devices import find_devices
from nuggets.devices.gpu_locks import lock_gpus

folder, visible, *uuids = sys.argv[1:]
devices = find_devices("auto", None, visible=visible, gpu_uuids=lambda: uuids)
locks = lock_gpus((device.gpu_uuid for device in devices), folder=pathlib.Path(folder))
print("locked", flush=True)
time.sleep(100)
"""


def other_run(folder: Path, visible: str, *uuids: str) -> "subprocess.Popen[str]":
    """A second process that has locked the GPUs that it sees."""
    run = subprocess.Popen(
        [sys.executable, "-c", _OTHER_RUN, str(folder), visible, *uuids], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None and run.stdout.readline() == "locked\n"
    return run


def gpus(visible: str | None, *uuids: str) -> list[str]:
    """What this process locks, where torch sees GPUs of these UUIDs."""
    return [device.gpu_uuid or "" for device in find_devices("auto", None, visible=visible, gpu_uuids=lambda: uuids)]


def end(run: "subprocess.Popen[str]") -> None:
    run.kill()
    run.wait()


def test_two_jobs_that_both_see_their_gpu_as_0_do_not_wait_for_each_other(tmp_path: Path) -> None:
    other = other_run(tmp_path, "0", "GPU-aaaa")
    stop = threading.Event()
    stop.set()  # a lock that would wait raises Interrupted
    try:
        with stopped_by(stop):
            lock_gpus(gpus("0", "GPU-bbbb"), folder=tmp_path).close()
    finally:
        end(other)


def test_one_gpu_named_by_number_and_by_uuid_is_locked_once(tmp_path: Path) -> None:
    other = other_run(tmp_path, "0", "GPU-aaaa")
    stop = threading.Event()
    stop.set()
    try:
        with stopped_by(stop), pytest.raises(Interrupted):
            lock_gpus(gpus("GPU-aaaa", "GPU-aaaa"), folder=tmp_path)
    finally:
        end(other)


def test_slices_of_one_gpu_are_locked_one_by_one(tmp_path: Path) -> None:
    assert gpus("MIG-1, MIG-2", "GPU-aaaa", "GPU-aaaa") == ["MIG-1", "MIG-2"]


def test_a_run_waits_for_the_gpus_of_another_and_locks_them_when_that_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="nuggets.progress")
    other = other_run(tmp_path, "0,1", "GPU-1", "GPU-7f")
    begun = time.monotonic()
    threading.Timer(1.5, other.send_signal, [signal.SIGKILL]).start()
    lock_gpus(["GPU-0", "GPU-1", "GPU-1"], folder=tmp_path).close()
    assert time.monotonic() - begun > 1.4 and other.wait(10) == -signal.SIGKILL
    assert caplog.messages == ["GPU-1 is in use by another run on this machine: waiting for it"]
    lock_gpus(["GPU-0", "GPU-1"], folder=tmp_path).close()  # they were released


def test_a_stop_while_waiting_leaves_nothing_locked(tmp_path: Path) -> None:
    other = other_run(tmp_path, "0", "GPU-1")
    try:
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        with stopped_by(stop), pytest.raises(Interrupted):
            lock_gpus(["GPU-0", "GPU-1"], folder=tmp_path)
        end(other_run(tmp_path, "0", "GPU-0"))  # would wait for ever
    finally:
        end(other)


def test_a_second_user_can_lock_the_same_gpu(tmp_path: Path) -> None:
    lock_gpus(["GPU-0"], folder=tmp_path).close()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o666


def test_runs_on_other_gpus_and_on_cpu_do_not_wait(tmp_path: Path) -> None:
    other = other_run(tmp_path, "0", "GPU-0")
    lock_gpus([], folder=tmp_path).close()
    lock_gpus(["GPU-1", "GPU-2"], folder=tmp_path).close()
    end(other)
