"""Check the candidates' prompts, a shard at a time, before anything is planned."""

from prefect import task

from nuggets.devices.worker_pool import run_on_device
from nuggets.pools.shards import Pool
from nuggets.runs.prepared import PreparedRun
from nuggets.steps import check_prompts as step
from tasks.cancellation_watch import stops_with_flow_run
from tasks.retry_policy import RETRYING


@task(task_run_name="look for checked prompts of {prepared.name}", **RETRYING)
def look_for_unchecked(prepared: PreparedRun, pool: Pool) -> list[step.UncheckedShard]:
    """Return the shards whose prompts no run of the same scoring key has checked."""
    return step.unchecked_shards(prepared, pool)


@task(task_run_name="check prompts of shard {unchecked.index:03d}", **RETRYING)
def check_prompts(prepared: PreparedRun, unchecked: step.UncheckedShard, remote: bool) -> int:
    """Make the prompts of a shard and store what is cut or can't be scored. `remote` as for `score`."""
    with stops_with_flow_run(remote):
        noted: int = run_on_device(step.check_shard, prepared, unchecked)
    return noted


@task(task_run_name="check prompts of the anchors of {prepared.name}", **RETRYING)
def check_anchors(prepared: PreparedRun, anchors_path: str) -> step.CheckedPrompts:
    """Make the prompts of the anchors and store what is cut."""
    return step.check_anchors(prepared, anchors_path)


@task(task_run_name="join checked prompts of {prepared.name}", **RETRYING)
def join_checks(prepared: PreparedRun, pool: Pool) -> step.CheckedPrompts:
    """Join the notes of all shards into one table."""
    return step.join_checks(prepared, pool)
