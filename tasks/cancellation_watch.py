"""Poll the state of a flow run, and end the work for it when it is cancelled, over or deleted.

A flow polls its own flow run, and so does each of its tasks that runs on a cluster, where no signal reaches it.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import TaskRunContext

from nuggets.stopping import check_stop, stopped_by

Check = Callable[[SyncPrefectClient, UUID], str]  # why the work for a flow run has to end; empty while it goes on

# Between two polls of a task, plus or minus a random half: hundreds of tasks may poll one server. The first poll is
# before the work. A flow that is stopped waits three times as long for its tasks.
_SECONDS = 6.0
_JOIN_SECONDS = 5.0  # a server that does not answer holds the thread for longer


@contextmanager
def stops_with_flow_run(remote: bool) -> Iterator[None]:
    """Stop the work of this task when its flow run is cancelled, over or deleted, if the task is `remote`.

    Raises Interrupted if the flow run is over, or a stop was requested, before the work starts.
    """
    context = TaskRunContext.get()
    flow_run = context.task_run.flow_run_id if context else None
    over = threading.Event()
    with _watched(flow_run, over) if remote and flow_run is not None else nullcontext(), stopped_by(over):
        check_stop()
        yield


@contextmanager
def polled(flow_run: UUID, end: Callable[[str], object], *, seconds: float, check: Check) -> Iterator[None]:
    """While this lasts, a thread polls a flow run about every `seconds`, and calls `end` with the reason once."""
    done = threading.Event()
    arguments = (flow_run, end, done, seconds, check)
    thread = threading.Thread(target=copy_context().run, args=(_poll, *arguments), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_JOIN_SECONDS)


def why_over(client: SyncPrefectClient, flow_run: UUID, *, is_cancelled_here: bool = True) -> str:
    """Why the work for a flow run has to end; empty while it goes on, and while its server does not answer.

    `is_cancelled_here`: no other process ends the work of a flow run that is CANCELLING.
    """
    try:
        # Not read_flow_run: a proxy without a server also answers with 404, which must not stop a run.
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))
    except Exception:  # a server that does not answer must not stop scoring
        return ""
    if not runs:
        return "stopped because its flow run was deleted"
    state = runs[0].state
    if state is not None and (state.is_final() or (is_cancelled_here and state.is_cancelling())):
        return f"stopped because its flow run is {state.name}"
    return ""


@contextmanager
def _watched(flow_run: UUID, over: threading.Event) -> Iterator[None]:
    with get_client(sync_client=True) as client:
        if why_over(client, flow_run):  # cancelled while the task waited in the queue
            over.set()
    with polled(flow_run, lambda _: over.set(), seconds=_SECONDS, check=why_over):
        yield


def _poll(flow_run: UUID, end: Callable[[str], object], done: threading.Event, seconds: float, check: Check) -> None:
    with get_client(sync_client=True) as client:
        while not done.wait(random.uniform(0.5, 1.5) * seconds):
            if reason := check(client, flow_run):
                end(reason)
                return
