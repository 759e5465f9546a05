"""Note in the manifest how a run came out."""

from typing import Any

from prefect import task

from nuggets.runs.manifest import RunState, record_state
from nuggets.store.store import Store
from tasks.retry_policy import RETRYING


@task(task_run_name="note {state} in {run}", **RETRYING)
def record(store: Store, run: str, state: RunState, message: str = "", **facts: Any) -> None:
    """Write state, references, counts and timings into the run's manifest."""
    record_state(store, run, state, message, **facts)
