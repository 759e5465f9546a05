"""The executor: where the tasks of a flow run, and how many of them at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner


def _release_nothing() -> None:
    pass


@dataclass(frozen=True)
class Executor:
    """Runs `workers` tasks at once. Tasks of a `remote` one share neither signals nor progress with this process."""

    runner: TaskRunner[Any]
    workers: int
    remote: bool = False
    resources: Callable[[], AbstractContextManager[Any]] = nullcontext  # what each task reserves
    deployment: str | None = None  # whose flow runs score first; this executor scores the rest
    flow_runs: int = 0  # how many of them
    stalled_after: int = 0  # seconds, a parameter of these flow runs
    release: Callable[[], None] = _release_nothing  # frees this machine's devices until the next task

    def map(self, task: "Task[..., Any]", **parameters: Any) -> list[PrefectFuture[Any]]:
        """Submit a task for each element of the parameters that are not `unmapped`."""
        with self.resources():
            return list(self.runner.map(task, parameters))
