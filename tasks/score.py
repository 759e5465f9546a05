"""Score one unit of a round: the task that GPUs are for."""

from prefect import task

from nuggets.preparation import PreparedRun
from nuggets.scoring_plan import ScoringUnit
from nuggets.shard_scoring import score_unit
from nuggets.stopping import stop_requested
from tasks.retrying import RETRYING


@task(task_run_name="score round {unit.round} part {unit.index:03d}: {unit.cells} cells", **RETRYING)
def score(prepared: PreparedRun, unit: ScoringUnit, anchors_path: str) -> int:
    """How many cells were computed; each is in the store before this ends."""
    return score_unit(prepared, unit, anchors_path, should_stop=stop_requested)
