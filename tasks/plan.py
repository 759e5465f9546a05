"""Plan a scoring round: who is out, and what is computed next."""

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
    """Drop who can't reach the cut any more, and leave a work list for every task of the round."""
    return plan_round(prepared, pool, anchors_path, cut, number=number, busy=busy, workers=workers)
