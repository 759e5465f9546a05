"""Waiting for tasks, with an ear for whoever asks to stop."""

import queue
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from prefect.futures import PrefectFuture, wait

from flows.execution.cancelling import notify_remote_tasks
from flows.execution.executor import Executor
from flows.execution.progress_artifact import shown
from nuggets.errors import Interrupted, NuggetsError
from nuggets.stopping import check_stop, stop_requested

T = TypeVar("T")
_LOOK_SECONDS = 1.0  # between two looks at whether someone asked to stop
# For tasks remote: they look every few seconds whether their run is over; a cancelled run has 30.
_END_SECONDS = 20.0


class TasksInHand:
    """Tasks that have been started and have not ended."""

    def __init__(self, executor: Executor) -> None:
        self._engine = executor
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
        """Those that have ended since the last call, after a second at most. Raises Interrupted if asked to stop."""
        found = []
        try:
            found.append(self._ended.get(timeout=_LOOK_SECONDS))
            while True:
                found.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        for future in found:
            future.wait()  # done it is, but its state is known here only after this
        self._running.difference_update(found)
        check_stop()
        return found

    def let_end(self) -> None:
        """Give tasks remote the time to store what they have: some clusters end them together with their client.

        Those of this machine hear of a wish to stop as the flow does, and its executor waits for them.
        """
        if self._engine.remote and self._running:
            if stop_requested():
                notify_remote_tasks()
            wait(list(self._running), timeout=_END_SECONDS)


def results_of(stage: str, executor: Executor, futures: Sequence[PrefectFuture[T]]) -> list[T]:
    """All results of a stage's tasks; if some fail, the others are finished first and the error says which and why."""
    done, tasks = 0, TasksInHand(executor)
    tasks.add(futures)

    def look() -> tuple[float, str]:
        return 100 * done / len(futures), f"{done} of {len(futures)} tasks are done"

    with shown(stage, look) if len(futures) > 1 else nullcontext():
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
    """Why a task failed: its error, or what there is to know if it was lost with its process."""
    try:
        return future.result(raise_on_failure=False)
    except Exception as error:
        return error


def failure(what: str, causes: Sequence[Any]) -> NuggetsError:
    """The error of a stage of which some tasks failed; Interrupted if that is why."""
    for cause in causes:
        if isinstance(cause, Interrupted):
            return cause
    error = NuggetsError(f"{what}, first: {causes[0]}. What the others computed is stored; run again to do the rest")
    error.__cause__ = causes[0] if isinstance(causes[0], BaseException) else None
    return error
