"""Embed one shard of the pool."""

from prefect import task

from nuggets.embedding import embed_shard
from nuggets.preparation import PreparedRun
from nuggets.stopping import check_stop
from tasks.retrying import RETRYING


@task(task_run_name="embed shard {index:03d}", **RETRYING)
def embed(prepared: PreparedRun, index: int, shard: str) -> str:
    """Path of the shard's embeddings, computed if the store has none."""
    check_stop()
    return embed_shard(prepared, shard)
