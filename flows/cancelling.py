"""A flow that is cancelled takes its tasks with it."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import Cancelling

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


def tell_tasks_elsewhere() -> None:
    """Have the flow run count as being cancelled: tasks in other processes ask for that, and hear of nothing else."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, Cancelling())
