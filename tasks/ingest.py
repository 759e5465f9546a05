"""Ingest the pool into shards."""

from prefect import task

from nuggets.config.configs import CurateConfig
from nuggets.pools.shards import Pool
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.ingest import ingest_run_pool
from tasks.retry_policy import RETRYING


@task(task_run_name="ingest {config.pool_name}", **RETRYING)
def ingest(prepared: PreparedRun, config: CurateConfig) -> Pool:
    """Read the pool, merge duplicates, and store it in shards; bad rows are listed in rejects.jsonl."""
    return ingest_run_pool(prepared, config)
