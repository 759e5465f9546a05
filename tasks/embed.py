"""Embed one shard of the pool."""

from prefect import task

from nuggets.device_processes import on_device
from nuggets.embedding import embed_shard
from nuggets.preparation import PreparedRun
from nuggets.stopping import check_stop
from tasks.retrying import RETRYING
from tasks.s3_endpoint import s3_endpoint


@task(task_run_name="embed shard {index:03d}", **RETRYING)
def embed(prepared: PreparedRun, index: int, shard: str) -> str:
    """Path of the shard's embeddings, computed if the store has none."""
    check_stop()
    with s3_endpoint(prepared.s3_endpoint):
        return on_device(embed_shard, prepared, shard)
