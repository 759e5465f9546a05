"""When a task that has failed is tried again: if that can help, after pauses that grow and differ by chance."""

from typing import Any

import httpx
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from nuggets.errors import NuggetsError, OutOfMemory, StoreError
from nuggets.progress import report_stage
from nuggets.stopping import stop_requested

_PAUSES = (5.0, 20.0, 60.0)  # seconds, each up to half longer or shorter: shards that fail together come back apart


def can_help(error: object) -> bool:
    """Whether the same task may succeed next time: not so where data, parameters or the program are at fault.

    A store or server that is away comes back and a full disk is made room on; a device runs out of memory because of
    somebody else, or is lost. What was computed before is found in the store, so trying again is cheap.
    """
    if isinstance(error, NuggetsError):
        return isinstance(error, OutOfMemory) or (isinstance(error, StoreError) and error.is_transient)
    return isinstance(error, (RuntimeError, MemoryError, OSError, httpx.TransportError)) and not isinstance(
        error, (FileNotFoundError, PermissionError, NotImplementedError, RecursionError)
    )


def try_again(task: "Task[..., Any]", run: TaskRun, state: State[Any]) -> bool:
    """Whether a task that has just failed is to be tried again; if so, that is said."""
    error = state.result(raise_on_failure=False)
    if can_help(error) and not stop_requested():
        report_stage(f"{run.name} failed and is tried again soon: {error}")
        return True
    return False


RETRYING: dict[str, Any] = {
    # The store knows what has been computed, and for what. A result that Prefect keeps, where it is told to keep all,
    # would be that of the pool before somebody mended it.
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": len(_PAUSES),
    "retry_delay_seconds": list(_PAUSES),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": try_again,
}
