"""One attempt at a run: its heartbeats while it works, and its failure in the run's manifest."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nuggets.errors import Interrupted, StoreError
from nuggets.runs.attempts import heartbeat
from nuggets.runs.manifest import RunState, record_state
from nuggets.store.store import Store


@contextmanager
def recorded_attempt(store: Store, run: str, attempt: str, **facts: Any) -> Iterator[None]:
    """Store heartbeats while this lasts, and record a failure or an interruption with `facts` in the manifest.

    The flow itself records that it is complete, after it has published. An empty `attempt` records nothing: another
    flow owns the run.
    """
    if not attempt:
        yield
        return
    with heartbeat(store, run, attempt):
        try:
            yield
        except BaseException as error:
            is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
            state = RunState.FAILED if is_failure else RunState.INTERRUPTED
            # Not a task, and store errors are suppressed: the API or the store may have failed, and `error` is the
            # cause. This runs before the executor closes and waits for its tasks: a cancelled flow has little time.
            with contextlib.suppress(StoreError):
                record_state(store, run, state, f"{error}" or type(error).__name__, attempt=attempt, **facts)
            raise
