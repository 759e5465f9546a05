"""A flow that is cancelled takes its tasks with it."""

from collections.abc import Iterator
from contextlib import contextmanager

from nuggets.stopping import request_stop


@contextmanager
def tasks_end_with_flow() -> Iterator[None]:
    """When the flow is told to end, ask its tasks to: they are in other threads, and store what they have."""
    try:
        yield
    except Exception:
        raise
    except BaseException:  # how Prefect and Python say that somebody wants this process to end
        request_stop()
        raise
