"""Where the tasks run that need a model: on this machine's devices, or on a Dask or Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.execution.executor import Executor, _nothing
from nuggets.config.configs import CurateConfig, ReselectConfig, ScoreShardsConfig
from nuggets.devices.devices import find_devices, has_gpu
from nuggets.devices.worker_pool import worker_pool
from nuggets.progress import report_stage

Config = CurateConfig | ReselectConfig | ScoreShardsConfig
_SCORE_SHARDS = "score-shards/on-demand"


@contextmanager
def open_executor(config: Config) -> Iterator[Executor]:
    """The executor that a configuration asks for, for as long as this lasts.

    Raises UsageError if its devices or its packages are not here, NuggetsError if no cluster answers.
    """
    if config.executor in ("dask", "ray"):
        with _cluster(config) as executor:
            yield executor
    elif config.executor == "deployment":
        with _devices(config, None) as executor:
            yield replace(
                executor,
                deployment=config.executor_address or _SCORE_SHARDS,
                flow_runs=config.workers or 1,
                stalled_after=config.stalled_after,
            )
    else:
        with _devices(config, config.workers) as executor:
            yield executor


def _cluster(config: Config) -> AbstractContextManager[Executor]:
    from flows.execution.clusters import dask_cluster, ray_cluster  # here, because most runs need neither package

    opened = dask_cluster if config.executor == "dask" else ray_cluster
    return opened(config.executor_address, config.workers)


@contextmanager
def _devices(config: Config, workers: int | None) -> Iterator[Executor]:
    devices = find_devices(config.devices, workers, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    with ExitStack() as stack:
        # One worker on CPU needs no process of its own: this one can do its work, unless it would use a GPU for it.
        release = _nothing
        if workers is not None or len(devices) > 1 or has_gpu():
            release = stack.enter_context(worker_pool(devices, stalled_after=config.stalled_after)).close
            report_stage(f"a scoring process on each of: {', '.join(device.name for device in devices)}")
        # Some threads more than devices, for tasks that wait to be tried again; the others still take turns on devices.
        runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=2 * len(devices) + 2)
        # Left before the processes are: its tasks end first, and store what they have.
        yield Executor(stack.enter_context(runner), len(devices), release=release)
