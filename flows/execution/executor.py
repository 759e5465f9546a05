"""Where a flow's tasks run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Executor:
    """Places tasks, `workers` at once; `remote` they hear no signal of this process, nor it their progress."""

    runner: TaskRunner[Any]
    workers: int
    remote: bool = False
    resources: Callable[[], AbstractContextManager[Any]] = nullcontext  # what a task is to have for itself
    deployment: str | None = None  # whose flow runs score first; what they leave is done here
    flow_runs: int = 0
    stalled_after: int = 0  # seconds, for these
    release: Callable[[], None] = _nothing  # of this machine's devices, until the next task

    def map(self, task: "Task[..., Any]", **parameters: Any) -> list[PrefectFuture[Any]]:
        """A task run for each element of those parameters that are not `unmapped`."""
        with self.resources():
            return list(self.runner.map(task, parameters))
