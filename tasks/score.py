"""Score one unit of a round: the task that needs a GPU."""

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
    """How many scoring tasks of this process wait for a retry: they hold no device."""
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
    """Compute the missing cells of a unit and store them; returns how many were computed.

    `remote`: the task runs on a cluster, where no signal reaches it; it polls the state of its flow run instead.
    """
    context = TaskRunContext.get()
    if context is not None:
        _pausing.discard(context.task_run.id)
    with stops_with_flow_run(remote):
        computed = run_on_device(score_unit, prepared, unit, anchors_path)
    # A retry finds the cells of earlier tries in the store, and they count as well.
    return unit.cells if context is not None and context.task_run.run_count > 1 else computed
