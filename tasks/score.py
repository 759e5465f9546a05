"""Score one unit of a round: the task that GPUs are for."""

from prefect import task

from nuggets.device_processes import on_device
from nuggets.preparation import PreparedRun
from nuggets.scoring_plan import ScoringUnit
from nuggets.shard_scoring import score_unit
from tasks.following import stops_with_flow_run
from tasks.retrying import RETRYING
from tasks.s3_endpoint import s3_endpoint


@task(task_run_name="score round {unit.round} part {unit.index:03d}: {unit.cells} cells", **RETRYING)
def score(prepared: PreparedRun, unit: ScoringUnit, anchors_path: str, elsewhere: bool) -> int:
    """How many cells were computed; each is in the store before this ends.

    `elsewhere`: this is not the process of the flow, which hears of somebody's wish to stop.
    """
    with s3_endpoint(prepared.s3_endpoint), stops_with_flow_run(elsewhere):
        return on_device(score_unit, prepared, unit, anchors_path)
