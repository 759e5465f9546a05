"""Judge the candidates."""

from prefect import task

from nuggets.pools.shards import Pool
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.score_candidates import score_candidates
from tasks.retry_policy import RETRYING


@task(task_run_name="golden scores of {prepared.name}", **RETRYING)
def judge(prepared: PreparedRun, pool: Pool, anchors_path: str) -> None:
    """Turn cells and baseline into the table of golden scores that every cut reads."""
    score_candidates(prepared, pool, anchors_path)
