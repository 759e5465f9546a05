"""Embed one shard of the pool."""

from prefect import task

from nuggets.embedding import embed_shard
from nuggets.preparation import PreparedRun


@task(task_run_name="embed {shard}")
def embed(prepared: PreparedRun, shard: str) -> str:
    """Path of the shard's embeddings, computed if the store has none."""
    return embed_shard(prepared, shard)
