"""Embed one shard of the pool."""

from prefect import task

from nuggets.devices.worker_pool import run_on_device
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.embed_shard import embed_shard
from tasks.cancellation_watch import stops_with_flow_run
from tasks.retry_policy import RETRYING


@task(task_run_name="embed shard {index:03d}", **RETRYING)
def embed(prepared: PreparedRun, index: int, shard: str, remote: bool) -> str:
    """Compute the embeddings of a shard, if the store has none, and return their path. `remote` as for `score`."""
    with stops_with_flow_run(remote):
        path: str = run_on_device(embed_shard, prepared, shard)
    return path
