"""Plan what is to be scored."""

from prefect import task

from nuggets.pool import Pool
from nuggets.preparation import PreparedRun
from nuggets.scoring_plan import ScoringPlan, plan_scoring


@task(task_run_name="plan scoring of {prepared.name}")
def plan(prepared: PreparedRun, pool: Pool, anchors_path: str) -> ScoringPlan:
    """Which cells are needed, which are stored, and what each shard lacks."""
    return plan_scoring(prepared.store, prepared.name, prepared.setup.key, pool, anchors_path)
