"""Dask and Ray clusters of several processes on this machine, as a command reaches them by their address."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrated import wait_for

from deployments.local_s3 import free_port

BIN = Path(sys.executable).parent
SECONDS = 200  # to start
# Ray reads these in every process.
QUIET_RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def started(arguments: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@contextmanager
def local(environment: dict[str, str], folder: Path) -> Iterator[list[str]]:
    yield ["--workers", "2"]


@contextmanager
def dask(environment: dict[str, str], folder: Path) -> Iterator[list[str]]:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    ours = ["--host", "127.0.0.1", "--no-dashboard"]
    with ExitStack() as stack:
        scheduler = [str(BIN / "dask"), "scheduler", *ours, "--port", str(port)]
        stack.enter_context(started(scheduler, {}, folder / "scheduler.log"))
        # One of the two resources that Dask knows by name only: the engine has to ask for it.
        size = ["--nworkers", "2", "--nthreads", "2", "--resources", "GPU=1"]
        workers = [str(BIN / "dask"), "worker", address, *ours, *size]
        there = environment | {"DASK_TEMPORARY_DIRECTORY": str(folder)}
        stack.enter_context(started(workers, there, folder / "workers.log"))
        established = "Starting established connection"
        wait_for(lambda: (folder / "workers.log").read_text().count(established) == 2, seconds=SECONDS)
        yield ["--executor", "dask", "--executor-address", address]


@contextmanager
def ray(environment: dict[str, str], folder: Path) -> Iterator[list[str]]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray") as scratch, (folder / "ray.log").open("ab") as log:
        here = ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={scratch}", "--include-dashboard=false"]
        head = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", *here]
        process = subprocess.Popen(head, env=environment | QUIET_RAY, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: "Ray runtime started" in (folder / "ray.log").read_text(), seconds=SECONDS)
        os.environ.update(QUIET_RAY)  # also for clients that connect to it
        try:
            yield ["--executor", "ray", "--executor-address", f"127.0.0.1:{port}"]
        finally:
            for name in QUIET_RAY:
                del os.environ[name]
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
