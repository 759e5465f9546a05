"""A flow that is cancelled takes its tasks with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Cancelling

from nuggets.progress import report_stage
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


def notify_remote_tasks() -> None:
    """Have the flow run count as being cancelled: tasks in other processes ask for that, and hear of nothing else."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, Cancelling())
    except Exception as error:  # the tasks end without it, with their cluster
        report_stage(f"the tasks could not be told to stop: {error}")


def cancelled_at_last(flow: "Flow[..., Any]", flow_run: FlowRun, state: State[Any]) -> None:
    """Have a run that we began to cancel count as cancelled: one that is being cancelled can do nothing else.

    A hook of flows; where a worker has started the run, it does this itself.
    """
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Cancelled())
