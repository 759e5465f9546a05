"""Open the executor that a configuration names: this machine's devices, a Dask or Ray cluster, or a deployment."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.execution.clusters import dask_cluster, ray_cluster
from flows.execution.executor import Executor
from nuggets.config.configs import CurateConfig, ReselectConfig, ScoreShardsConfig
from nuggets.devices.devices import find_devices, has_gpu
from nuggets.devices.worker_pool import worker_pool
from nuggets.progress import report_stage

Config = CurateConfig | ReselectConfig | ScoreShardsConfig
_SCORE_SHARDS = "score-shards/on-demand"
_CLUSTERS = {"dask": dask_cluster, "ray": ray_cluster}


@contextmanager
def open_executor(config: Config) -> Iterator[Executor]:
    """The executor of a configuration, closed at the end.

    Raises UsageError if its devices or its packages are missing, NuggetsError if no cluster answers.
    """
    if config.executor in _CLUSTERS:
        with _CLUSTERS[config.executor](config.executor_address, config.workers) as executor:
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


@contextmanager
def _devices(config: Config, workers: int | None) -> Iterator[Executor]:
    devices = find_devices(config.devices, workers, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    # More threads than devices: a task that waits for its next try holds a thread. The other threads wait for a device.
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=2 * len(devices) + 2)
    executor = Executor(runner, len(devices))
    with ExitStack() as stack:
        # A single worker on CPU computes in this process. On a machine with a GPU this process would use the GPU.
        if workers is not None or len(devices) > 1 or has_gpu():
            pool = stack.enter_context(worker_pool(devices, stalled_after=config.stalled_after))
            executor = replace(executor, release=pool.close)
            report_stage(f"a scoring process on each of: {', '.join(device.name for device in devices)}")
        # Closed before the processes: tasks end first, and store what they have computed.
        stack.enter_context(runner)
        yield executor
