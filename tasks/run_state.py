"""Record the state of a run in its manifest."""

from typing import Any

from prefect import task

from nuggets.runs import attempts, manifest
from nuggets.runs.manifest import RunState
from nuggets.store.store import Store
from tasks.retry_policy import RETRYING


@task(task_run_name="record state {state} of {run}", **RETRYING)
def record_state(store: Store, run: str, state: RunState, message: str = "", *, attempt: str, **facts: Any) -> None:
    """Write the state, references, counts and timings of an attempt into the run's manifest.

    The manifest stays as it is if a newer attempt has taken the run over.
    """
    manifest.record_state(store, run, state, message, attempt=attempt, **facts)


@task(task_run_name="claim {run}", **RETRYING)
def claim_run(store: Store, run: str) -> str:
    """Start an attempt at a run and return its id, or an empty string if another flow is working on the run."""
    return attempts.claim_run(store, run) or ""
