"""Wait for the futures of tasks, and end the wait when a stop is requested."""

import queue
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from prefect.futures import PrefectFuture, wait

from flows.execution.executor import Executor
from flows.execution.progress_artifact import shown
from flows.execution.stopping import notify_remote_tasks
from nuggets.errors import Interrupted, NuggetsError
from nuggets.stopping import check_stop, stop_requested
from tasks.retry_policy import can_help

T = TypeVar("T")
_POLL_SECONDS = 1.0  # between two checks of the stop flag
# For tasks on a cluster: they poll the state of their flow run every few seconds, and a cancelled flow has 30 seconds.
_END_SECONDS = 20.0


class RunningTasks:
    """Tasks that have been started and have not ended."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._running: set[PrefectFuture[Any]] = set()
        self._ended: queue.SimpleQueue[PrefectFuture[Any]] = queue.SimpleQueue()

    def __len__(self) -> int:
        return len(self._running)

    def add(self, futures: Sequence[PrefectFuture[Any]]) -> None:
        """Wait for these, too."""
        self._running.update(futures)
        for future in futures:
            future.add_done_callback(self._ended.put)

    def ended(self) -> list[PrefectFuture[Any]]:
        """The tasks that have ended since the last call; returns within a second. Raises Interrupted on a stop."""
        futures = []
        try:
            futures.append(self._ended.get(timeout=_POLL_SECONDS))
            while True:
                futures.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        for future in futures:
            future.wait()  # it has ended, but only this call loads its state
        self._running.difference_update(futures)
        check_stop()
        return futures

    def let_end(self) -> None:
        """Give tasks on a cluster the time to store what they have computed: some clusters end with their client.

        Tasks of this machine read the stop flag, and the executor waits for them when it closes.
        """
        if self._executor.remote and self._running:
            if stop_requested():
                notify_remote_tasks()
            wait(list(self._running), timeout=_END_SECONDS)


def results_of(stage: str, executor: Executor, futures: Sequence[PrefectFuture[T]]) -> list[T]:
    """The results of all tasks of a stage. If tasks fail, the others end first; the error has their count and cause."""
    done, tasks = 0, RunningTasks(executor)
    tasks.add(futures)

    def progress() -> tuple[float, str]:
        return 100 * done / len(futures), f"{done} of {len(futures)} tasks are done"

    with shown(stage, progress) if len(futures) > 1 else nullcontext():
        try:
            while tasks:
                done += len(tasks.ended())
        except BaseException:
            tasks.let_end()
            raise
    if failed := [future for future in futures if not future.state.is_completed()]:
        causes = [cause_of(future) for future in failed]
        raise failure(f"{len(failed)} of {len(futures)} tasks of stage '{stage}' failed", causes)
    return [future.result() for future in futures]


def cause_of(future: PrefectFuture[Any]) -> Any:
    """The error of a failed task, or what Prefect reports if the task was lost with its process."""
    try:
        return future.result(raise_on_failure=False)
    except Exception as error:
        return error


def failure(summary: str, causes: Sequence[Any]) -> NuggetsError:
    """The error of a stage with failed tasks; Interrupted if a task was interrupted.

    It advises to run again only where that can help: the text of the first cause names what to change elsewhere.
    """
    for cause in causes:
        if isinstance(cause, Interrupted):
            return cause
    advice = "; run again to do the rest" if any(map(can_help, causes)) else ""
    error = NuggetsError(f"{summary}, first: {str(causes[0]).rstrip('.')}. What was computed is stored{advice}")
    error.__cause__ = causes[0] if isinstance(causes[0], BaseException) else None
    return error
