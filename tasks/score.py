"""Score one unit of a round: the task that GPUs are for."""

from typing import Any
from uuid import UUID

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from nuggets.devices.worker_pool import run_on_device
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.plan_round import ScoringUnit
from nuggets.steps.score_cells import score_unit
from tasks.cancellation_watch import stops_with_flow_run
from tasks.retry_policy import RETRYING, try_again

_pausing: set[UUID] = set()


def tasks_pausing() -> int:
    """How many scoring tasks of this process have failed and wait to be tried again: no device works for them."""
    return len(_pausing)


def _pause(task: "Task[..., Any]", run: TaskRun, state: State[Any]) -> bool:
    again = try_again(task, run, state)
    if again:
        _pausing.add(run.id)
    return again


@task(
    task_run_name="score round {unit.round} part {unit.index:03d}: {unit.cells} cells",
    **{**RETRYING, "retry_condition_fn": _pause},
)
def score(prepared: PreparedRun, unit: ScoringUnit, anchors_path: str, remote: bool) -> int:
    """How many cells were computed; each is in the store before this ends.

    `remote`: this is not the process of the flow, which hears of somebody's wish to stop.
    """
    context = TaskRunContext.get()
    if context is not None:
        _pausing.discard(context.task_run.id)
    with stops_with_flow_run(remote):
        computed = run_on_device(score_unit, prepared, unit, anchors_path)
    # Tried again, it has found in the store what its earlier tries had computed.
    return unit.cells if context is not None and context.task_run.run_count > 1 else computed
