"""Score one shard: the task that GPUs are for."""

from prefect import task

from nuggets.preparation import PreparedRun
from nuggets.scoring_plan import ShardWork
from nuggets.shard_scoring import score_shard
from nuggets.stopping import stop_requested


@task(task_run_name="score shard {work.index:03d}: {work.cells} cells")
def score(prepared: PreparedRun, work: ShardWork, anchors_path: str) -> int:
    """How many cells were computed; each is in the store before this ends."""
    return score_shard(prepared, work, anchors_path, should_stop=stop_requested)
