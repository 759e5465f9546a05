"""Where the tasks run that need a model: on this machine's devices, or on a Dask or Ray cluster."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from nuggets.config import CurateConfig, ReselectConfig, ScoreShardsConfig
from nuggets.device_processes import device_processes
from nuggets.devices import find_devices, has_gpu
from nuggets.progress import report_stage

Config = CurateConfig | ReselectConfig | ScoreShardsConfig

_SCORE_SHARDS = "score-shards/on-demand"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Engine:
    """Places tasks, `workers` at once; `elsewhere` they hear no signal of this process, nor it their progress."""

    runner: TaskRunner[Any]
    workers: int
    elsewhere: bool = False
    resources: Callable[[], AbstractContextManager[Any]] = nullcontext  # what a task is to have for itself
    deployment: str | None = None  # whose flow runs score first; what they leave is done here
    flow_runs: int = 0
    stalled_after: int = 0  # seconds, for these
    let_go: Callable[[], None] = _nothing  # of this machine's devices, until the next task

    def map(self, task: "Task[..., Any]", **parameters: Any) -> list[PrefectFuture[Any]]:
        """A task run for each element of those parameters that are not `unmapped`."""
        with self.resources():
            return list(self.runner.map(task, parameters))


@contextmanager
def open_engine(config: Config) -> Iterator[Engine]:
    """The engine that a configuration asks for, for as long as this lasts.

    Raises UsageError if its devices or its packages are not here, NuggetsError if no cluster answers.
    """
    if config.engine in ("dask", "ray"):
        with _cluster(config) as engine:
            yield engine
    elif config.engine == "deployment":
        with _devices(config, None) as engine:
            yield replace(
                engine,
                deployment=config.engine_address or _SCORE_SHARDS,
                flow_runs=config.workers or 1,
                stalled_after=config.stalled_after,
            )
    else:
        with _devices(config, config.workers) as engine:
            yield engine


def _cluster(config: Config) -> AbstractContextManager[Engine]:
    from flows.clusters import dask_cluster, ray_cluster  # here, because most runs need neither package

    opened = dask_cluster if config.engine == "dask" else ray_cluster
    return opened(config.engine_address, config.workers)


@contextmanager
def _devices(config: Config, workers: int | None) -> Iterator[Engine]:
    devices = find_devices(config.devices, workers, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    with ExitStack() as stack:
        # One worker on CPU needs no process of its own: this one can do its work, unless it would use a GPU for it.
        let_go = _nothing
        if workers is not None or len(devices) > 1 or has_gpu():
            let_go = stack.enter_context(device_processes(devices, stalled_after=config.stalled_after)).close
            report_stage(f"a scoring process on each of: {', '.join(device.name for device in devices)}")
        # Some threads more than devices, for tasks that wait to be tried again; the others still take turns on devices.
        runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=2 * len(devices) + 2)
        # Left before the processes are: its tasks end first, and store what they have.
        yield Engine(stack.enter_context(runner), len(devices), let_go=let_go)
