"""Open a run that has begun to score, to compute more of its cells."""

from dataclasses import dataclass

from prefect import task

from nuggets.pools.shards import Pool, read_pool_record
from nuggets.runs.manifest import read_run
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.cuts import Cut
from nuggets.steps.prepare import own_cut, resume_run
from nuggets.store.store import Store
from tasks.retry_policy import RETRYING


@dataclass(frozen=True, slots=True)
class ResumedRun:
    """A run as it was prepared, its pool, the path of its anchors, and its own cut: None for the full table."""

    prepared: PreparedRun
    pool: Pool
    anchors: str
    cut: Cut | None


@task(task_run_name="resume {run}", **RETRYING)
def resume(store: Store, run: str) -> ResumedRun:
    """Open the run again. Raises UsageError if it can't be continued, for example because its model has changed."""
    prepared = resume_run(store, run)
    manifest = read_run(store, run)
    pool = read_pool_record(store, manifest.references["pool"])
    return ResumedRun(prepared, pool, manifest.references["anchors"], own_cut(manifest))
