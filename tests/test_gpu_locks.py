"""Two runs on one machine do not share a GPU: the second one waits, whatever becomes of the first."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nuggets.devices.gpu_locks import lock_gpus, unlock_gpus
from nuggets.errors import Interrupted
from nuggets.stopping import stopped_by

_OTHER_RUN = (
    "import sys, time, pathlib; from nuggets.devices.gpu_locks import lock_gpus\n"
    "lock_gpus(sys.argv[2:], folder=pathlib.Path(sys.argv[1])); print('claimed', flush=True); time.sleep(100)"
)


def other_run(folder: Path, *names: str) -> "subprocess.Popen[str]":
    run = subprocess.Popen([sys.executable, "-c", _OTHER_RUN, str(folder), *names], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "claimed\n"
    return run


def test_a_run_waits_for_the_gpus_of_another_and_has_them_when_that_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="nuggets.progress")
    other = other_run(tmp_path, "1", "GPU-7f")
    begun = time.monotonic()
    threading.Timer(1.5, other.send_signal, [signal.SIGKILL]).start()
    unlock_gpus(lock_gpus(["0", "1", "1"], folder=tmp_path))
    assert time.monotonic() - begun > 1.4 and other.wait(10) == -signal.SIGKILL
    assert caplog.messages == ["GPU 1 is in use by another run on this machine: waiting for it"]
    unlock_gpus(lock_gpus(["0", "1"], folder=tmp_path))  # they were released


def test_who_is_stopped_while_waiting_has_claimed_nothing(tmp_path: Path) -> None:
    other = other_run(tmp_path, "1")
    try:
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        with stopped_by(stop), pytest.raises(Interrupted):
            lock_gpus(["0", "1"], folder=tmp_path)
        third = other_run(tmp_path, "0")  # would wait for ever
        third.kill()
        third.wait()
    finally:
        other.kill()
        other.wait()


def test_runs_on_other_gpus_and_on_cpu_wait_for_nobody(tmp_path: Path) -> None:
    other = other_run(tmp_path, "0")
    unlock_gpus(lock_gpus([], folder=tmp_path))
    unlock_gpus(lock_gpus(["1", "2"], folder=tmp_path))
    other.kill()
    other.wait()
