"""Dask and Ray clusters through Prefect's task runners: a task has a GPU for itself where the cluster has any."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

from flows.execution.executor import Executor
from nuggets.errors import NuggetsError, UsageError
from nuggets.progress import report_stage

CONNECT_SECONDS = 20


@contextmanager
def dask_cluster(address: str | None, workers: int | None) -> Iterator[Executor]:
    """The Dask cluster at an address, or one on this machine with so many workers of one thread each.

    Where workers were started with `--resources GPU=1`, a task takes one of these; else a thread.
    """
    try:
        from dask.base import annotate
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise _not_installed("dask") from error
    if address is None:
        options = {"n_workers": workers or _cores(), "threads_per_worker": 1, "dashboard_address": None}
        runner: Any = DaskTaskRunner(cluster_kwargs=options)
    else:
        runner = DaskTaskRunner(address=address, client_kwargs={"timeout": CONNECT_SECONDS})
    with _entered(runner, "dask", address):
        there = runner.client.scheduler_info()["workers"].values()
        gpus = int(sum(worker["resources"].get("GPU", 0) for worker in there))
        count = _counted("dask", address, gpus, sum(worker["nthreads"] for worker in there))
        resources = (lambda: annotate(resources={"GPU": 1})) if gpus else nullcontext
        yield Executor(runner, workers or count, remote=True, resources=resources)


@contextmanager
def ray_cluster(address: str | None, workers: int | None) -> Iterator[Executor]:
    """The Ray cluster at an address, or one on this machine with so many processes.

    A task takes a GPU where there is one, else a core; its process stays for the next task, with its model.
    """
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise _not_installed("ray") from error
    options: dict[str, Any] = {"include_dashboard": False, "num_cpus": workers or _cores()} if address is None else {}
    runner: Any = RayTaskRunner(address=address, init_kwargs={"log_to_driver": False, **options})
    with _entered(runner, "ray", address):
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(there.get("GPU", 0))
        count = _counted("ray", address, gpus, int(there.get("CPU", 0)))
        # Without max_calls=0 Ray starts a new process, which loads the model again, for each task with a GPU.
        asked: dict[str, Any] = {"num_gpus": 1, "max_calls": 0} if gpus else {"num_cpus": 1}
        yield Executor(runner, workers or count, remote=True, resources=lambda: remote_options(**asked))


@contextmanager
def _entered(runner: Any, executor: str, address: str | None) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            _wait_for_listener(address)
            stack.enter_context(runner)
            getattr(runner, "client", None)  # Dask's runner connects when it is first asked for its client
        except Exception as error:  # the packages have many types of their own for it
            raise NuggetsError(
                f"executor {executor}: no cluster answers at executor_address={address or 'this machine'}: {error}. "
                "What is stored already is kept; start the cluster and run again"
            ) from error
        yield


def _wait_for_listener(address: str | None) -> None:
    """Return once somebody listens at an address that has a port; OSError when nobody did for a while.

    Ray itself goes on trying for many minutes, silent but for warnings of its own.
    """
    if address is None:
        return
    place = urlsplit(address if "://" in address else f"//{address}")
    if not (place.hostname and place.port):
        return  # Ray's "auto" and the like
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((place.hostname, place.port), timeout=CONNECT_SECONDS).close()
            return
        except OSError:
            if time.monotonic() >= end:
                raise
            time.sleep(1)


def _counted(executor: str, address: str | None, gpus: int, threads: int) -> int:
    """How many tasks a cluster takes at once."""
    if not (gpus or threads):
        raise NuggetsError(
            f"executor {executor}: the cluster at executor_address={address} has no workers: start some and run again"
        )
    what = f"{gpus} GPUs" if gpus else f"{threads} CPU workers"
    report_stage(f"{executor} cluster at {address or 'this machine'}: {what}")
    return gpus or threads


def _not_installed(executor: str) -> UsageError:
    return UsageError(f"executor={executor} needs a package that is not installed: pip install prefect-{executor}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
