"""Compute golden scores."""

from prefect import task

from nuggets.pools.shards import Pool
from nuggets.runs.prepared import PreparedRun
from nuggets.steps import score_candidates as step
from tasks.retry_policy import RETRYING


@task(task_run_name="golden scores of {prepared.name}", **RETRYING)
def score_candidates(prepared: PreparedRun, pool: Pool, anchors_path: str) -> int:
    """Compute and store every candidate's golden score and each anchor's wins; returns how many cells conflict."""
    return step.score_candidates(prepared, pool, anchors_path)
