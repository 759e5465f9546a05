"""Ingest the run's pool into shards, and log what was read, merged and rejected."""

from nuggets.config.configs import CurateConfig
from nuggets.pools.ingest import described_rejects, ingest_pool
from nuggets.pools.readers.detect import find_source
from nuggets.pools.shards import Pool
from nuggets.progress import pluralize, report_stage
from nuggets.runs.prepared import PreparedRun


def ingest_run_pool(prepared: PreparedRun, config: CurateConfig) -> Pool:
    """The run's pool in the store; bad rows go to rejects.jsonl, duplicates are merged."""
    store = prepared.store
    pool = ingest_pool(
        store,
        find_source(config.pool, config.s3_endpoint, split=config.split),
        prepared.pool_digest,
        shard_size=config.shard_size,
        max_row_bytes=config.max_row_bytes,
        max_rejected_share=config.max_rejected_share,
        memory=config.memory_mib << 20,
        names=config.field_names,
    )
    report_stage(
        f"pool: {pluralize(pool.rows, 'row')}, {pluralize(pool.examples, 'distinct example')}, "
        f"{pluralize(pool.duplicates, 'duplicate')} merged, {described_rejects(store, pool)}, "
        f"{pluralize(pool.dropped_turns, 'later turn')} dropped, "
        f"{pluralize(pool.system_messages, 'system message')} not used"
        + (f", {pluralize(pool.dropped_instances, 'further instance')} dropped" if pool.dropped_instances else "")
    )
    for item in prepared.not_used:
        report_stage(f"not used: {item}")
    return pool
