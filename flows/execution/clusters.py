"""Dask and Ray clusters through Prefect's task runners: each task reserves a GPU if the cluster has any."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from multiprocessing import resource_tracker
from typing import Any
from urllib.parse import urlsplit

from flows.execution.executor import Executor
from nuggets.errors import NuggetsError, UsageError
from nuggets.progress import report_stage

CONNECT_SECONDS = 20


@contextmanager
def dask_cluster(address: str | None, workers: int | None) -> Iterator[Executor]:
    """The Dask cluster at an address, or one on this machine with `workers` workers of one thread each.

    A task reserves a GPU if the workers were started with `--resources GPU=1`, else a thread.
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
        nodes = runner.client.scheduler_info()["workers"].values()
        gpus = int(sum(node["resources"].get("GPU", 0) for node in nodes))
        slots = _task_slots("dask", address, gpus, sum(node["nthreads"] for node in nodes))
        resources = (lambda: annotate(resources={"GPU": 1})) if gpus else nullcontext
        yield Executor(runner, workers or slots, remote=True, resources=resources)


@contextmanager
def ray_cluster(address: str | None, workers: int | None) -> Iterator[Executor]:
    """The Ray cluster at an address, or one on this machine with `workers` processes.

    A task reserves a GPU if there is one, else a core. Its process keeps the model for the next task.
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
        totals = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(totals.get("GPU", 0))
        slots = _task_slots("ray", address, gpus, int(totals.get("CPU", 0)))
        # Without max_calls=0 Ray starts a new process, which loads the model again, for each task with a GPU.
        reserved: dict[str, Any] = {"num_gpus": 1, "max_calls": 0} if gpus else {"num_cpus": 1}
        yield Executor(runner, workers or slots, remote=True, resources=lambda: remote_options(**reserved))


@contextmanager
def _entered(runner: Any, executor: str, address: str | None) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            _wait_for_listener(address)
            with _sigterm_handler_kept(), _no_terminal_signals() if address is None else nullcontext():
                stack.enter_context(runner)
                getattr(runner, "client", None)  # Dask's runner connects on first access to its client
        except Exception as error:  # Dask and Ray raise many types
            raise NuggetsError(
                f"executor {executor}: no cluster answers at executor_address={address or 'this machine'}: {error}. "
                "What is stored already is kept; start the cluster and run again"
            ) from error
        yield


@contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Keep the SIGTERM handler of this process: Ray's ends the cluster before its tasks have stored their cells."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can install one
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _no_terminal_signals() -> Iterator[None]:
    """The processes and threads that are started inside receive no Ctrl-C and no SIGHUP.

    A terminal sends both to all processes of a command. Those of a cluster would end at once, and lose what they have
    computed; this process notifies them. A signal that arrives meanwhile is handled afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # Dask needs it, and its start would unblock SIGINT
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_listener(address: str | None) -> None:
    """Return when a server listens at an address that has a port. Raises OSError after some seconds without one.

    Ray itself tries for many minutes and logs warnings only.
    """
    if address is None:
        return
    parsed = urlsplit(address if "://" in address else f"//{address}")
    if not (parsed.hostname and parsed.port):
        return  # Ray's "auto" and the like
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((parsed.hostname, parsed.port), timeout=CONNECT_SECONDS).close()
            return
        except OSError:
            if time.monotonic() >= end:
                raise
            time.sleep(1)


def _task_slots(executor: str, address: str | None, gpus: int, threads: int) -> int:
    """How many tasks a cluster runs at once."""
    if not (gpus or threads):
        raise NuggetsError(
            f"executor {executor}: the cluster at executor_address={address} has no workers: start some and run again"
        )
    capacity = f"{gpus} GPUs" if gpus else f"{threads} CPU workers"
    report_stage(f"{executor} cluster at {address or 'this machine'}: {capacity}")
    return gpus or threads


def _not_installed(executor: str) -> UsageError:
    return UsageError(f"executor={executor} needs a package that is not installed: pip install prefect-{executor}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
