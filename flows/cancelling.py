"""A flow that is cancelled takes its tasks with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
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


@contextmanager
def flow_run_cancelled() -> Iterator[None]:
    """Have the flow run count as being cancelled while this lasts, and as cancelled then.

    Tasks in other processes ask for that, and hear of nothing else. Nobody but us would end what we have begun: a run
    that is being cancelled can neither fail nor be tried again.
    """
    _say(Cancelling())
    try:
        yield
    finally:
        _say(Cancelled())


def _say(state: State[Any]) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, state)
    except Exception as error:  # the tasks end without it, with their cluster
        report_stage(f"the flow run could not be set to {state.name}: {error}")
