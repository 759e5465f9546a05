"""Embed one shard of the pool."""

from prefect import task

from nuggets.device_processes import on_device
from nuggets.embedding import embed_shard
from nuggets.preparation import PreparedRun
from nuggets.s3_endpoint import at_s3_endpoint
from tasks.following import stops_with_flow_run
from tasks.retrying import RETRYING


@task(task_run_name="embed shard {index:03d}", **RETRYING)
def embed(prepared: PreparedRun, index: int, shard: str, elsewhere: bool) -> str:
    """Path of the shard's embeddings, computed if the store has none; `elsewhere` as for `score`."""
    with stops_with_flow_run(elsewhere):
        path: str = on_device(at_s3_endpoint, prepared.s3_endpoint, embed_shard, prepared, shard)
    return path
