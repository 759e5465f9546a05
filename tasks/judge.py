"""Judge the candidates."""

from prefect import task

from nuggets.judgement import judge_run
from nuggets.pool import Pool
from nuggets.preparation import PreparedRun
from tasks.retrying import RETRYING


@task(task_run_name="golden scores of {prepared.name}", **RETRYING)
def judge(prepared: PreparedRun, pool: Pool, anchors_path: str) -> None:
    """Turn cells and baseline into the table of golden scores that every cut reads."""
    judge_run(prepared, pool, anchors_path)
