"""Plan a scoring round: which candidates are dropped, and which cells are computed next."""

from prefect import task

from nuggets.pools.shards import Pool
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.cuts import Cut
from nuggets.steps.plan_round import Round, plan_round
from tasks.retry_policy import RETRYING


@task(task_run_name="prune before round {number}", **RETRYING)
def plan(
    prepared: PreparedRun,
    pool: Pool,
    anchors_path: str,
    cut: Cut | None,
    number: int,
    busy: set[int],
    workers: int = 1,
) -> Round:
    """Drop candidates that can no longer make the cut, and store a work list for each task of the round."""
    return plan_round(prepared, pool, anchors_path, cut, number=number, busy=busy, workers=workers)
