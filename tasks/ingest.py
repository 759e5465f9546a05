"""Ingest the pool into shards."""

from prefect import task

from nuggets.config import CurateConfig
from nuggets.pool import Pool, described_rejects, ingest_pool
from nuggets.preparation import PreparedRun
from nuggets.progress import report_stage
from nuggets.readers import find_source
from nuggets.store import open_store
from nuggets.wording import counted
from tasks.retrying import RETRYING


@task(task_run_name="ingest {config.pool}", **RETRYING)
def ingest(prepared: PreparedRun, config: CurateConfig) -> Pool:
    """Read the pool in whatever format it has; bad rows go to rejects.jsonl, duplicates are merged."""
    store = open_store(prepared.store)
    pool = ingest_pool(
        store,
        find_source(config.pool),
        prepared.pool_fingerprint,
        shard_size=config.shard_size,
        max_row_bytes=config.max_row_bytes,
        max_rejected_share=config.max_rejected_share,
        memory=config.memory_mib << 20,
        names=config.field_names,
    )
    report_stage(
        f"pool: {counted(pool.rows, 'row')}, {counted(pool.examples, 'distinct example')}, "
        f"{counted(pool.duplicates, 'duplicate')} merged, {described_rejects(store, pool)}, "
        f"{counted(pool.dropped_turns, 'later turn')} dropped, "
        f"{counted(pool.system_messages, 'system message')} not used"
    )
    return pool
