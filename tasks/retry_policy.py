"""When a failed task is retried: if a retry can help, after pauses that grow and vary randomly."""

from typing import Any

import httpx
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from nuggets.errors import NuggetsError
from nuggets.progress import report_stage
from nuggets.stopping import stop_requested

_PAUSES = (5.0, 20.0, 60.0)  # seconds, plus or minus a random half: tasks that fail together are not retried together


def can_help(error: object) -> bool:
    """Whether a retry may succeed: not if data, parameters or the program are wrong. Nuggets' own errors say so.

    A store or server may answer again, a full disk may get room, memory that another process holds may be freed, and a
    lost device may be replaced. A retry finds the computed cells in the store, so it is cheap.
    """
    if isinstance(error, NuggetsError):
        return error.retry_can_help
    return isinstance(error, (RuntimeError, MemoryError, OSError, httpx.TransportError)) and not isinstance(
        error, (FileNotFoundError, PermissionError, NotImplementedError, RecursionError)
    )


def try_again(task: "Task[..., Any]", run: TaskRun, state: State[Any]) -> bool:
    """Whether to retry a task that has just failed; logs the retry."""
    error = state.result(raise_on_failure=False)
    if can_help(error) and not stop_requested():
        report_stage(f"{run.name} failed and is retried soon: {error}")
        return True
    return False


RETRYING: dict[str, Any] = {
    # The store addresses results by their inputs. A result that Prefect persists could be that of a pool which has been
    # fixed since.
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": len(_PAUSES),
    "retry_delay_seconds": list(_PAUSES),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": try_again,
}
