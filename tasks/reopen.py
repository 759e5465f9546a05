"""Open a run that has begun to score again, to compute more of its cells."""

from prefect import task

from nuggets.pool import Pool, read_pool_record
from nuggets.preparation import PreparedRun, reopen_run
from nuggets.runs import read_run
from nuggets.store import open_store
from tasks.retrying import RETRYING


@task(task_run_name="reopen {run}", **RETRYING)
def reopen(store: str, run: str, s3_endpoint: str | None) -> tuple[PreparedRun, Pool, str]:
    """The run as it was prepared, its pool, and the path of its anchors."""
    place = open_store(store)
    references = read_run(place, run).references
    return (
        reopen_run(store, run, s3_endpoint=s3_endpoint),
        read_pool_record(place, references["pool"]),
        references["anchors"],
    )
