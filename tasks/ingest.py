"""Ingest the pool into shards."""

from prefect import task

from nuggets.config import CurateConfig
from nuggets.pool import Pool, ingest_pool
from nuggets.preparation import PreparedRun
from nuggets.progress import report_stage
from nuggets.readers import find_source
from nuggets.store import open_store
from nuggets.wording import counted
from tasks.retrying import RETRYING


@task(task_run_name="ingest {config.pool}", **RETRYING)
def ingest(prepared: PreparedRun, config: CurateConfig) -> Pool:
    """Read the pool in whatever format it has; bad rows go to rejects.jsonl, duplicates are merged."""
    pool = ingest_pool(
        open_store(prepared.store),
        find_source(config.pool),
        prepared.pool_fingerprint,
        shard_size=config.shard_size,
        max_row_bytes=config.max_row_bytes,
        max_rejected_share=config.max_rejected_share,
        memory=config.memory_mib << 20,
    )
    report_stage(
        f"pool: {counted(pool.rows, 'row')}, {counted(pool.examples, 'distinct example')}, "
        f"{counted(pool.duplicates, 'duplicate')} merged, "
        f"{sum(pool.rejects.values())} rejected, {counted(pool.dropped_turns, 'later turn')} dropped"
    )
    return pool
