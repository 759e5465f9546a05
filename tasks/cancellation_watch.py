"""A task in another process than its flow: it hears no signal, so it asks the API whether its flow run has ended."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import TaskRunContext

from nuggets.stopping import check_stop, stopped_by

# Between two looks, by chance up to half less or more. The first one is before anything is computed. Each is a request,
# and hundreds of tasks may be looking; a flow that is told to stop waits three times as long for its tasks.
_SECONDS = 6.0


@contextmanager
def stops_with_flow_run(remote: bool) -> Iterator[None]:
    """Ask this task's work to stop when its flow run is cancelled or over, if that happens `remote`.

    Raises Interrupted if somebody has asked already.
    """
    context = TaskRunContext.get()
    flow_run = context.task_run.flow_run_id if context else None
    over = threading.Event()
    with _watching(flow_run, over) if remote and flow_run is not None else nullcontext(), stopped_by(over):
        check_stop()
        yield


@contextmanager
def _watching(flow_run: UUID, over: threading.Event) -> Iterator[None]:
    with get_client(sync_client=True) as client:
        if _is_over(client, flow_run):  # it was waiting for its turn when that happened
            over.set()
    done = threading.Event()
    watch = threading.Thread(target=copy_context().run, args=(_watch, flow_run, done, over), daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def _watch(flow_run: UUID, done: threading.Event, over: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not done.wait(random.uniform(0.5, 1.5) * _SECONDS):
            if _is_over(client, flow_run):
                over.set()
                return


def _is_over(client: SyncPrefectClient, flow_run: UUID) -> bool:
    try:
        state = client.read_flow_run(flow_run).state
    except Exception:  # an API that is away for a while is no reason to stop scoring
        return False
    return state is not None and (state.is_final() or state.is_cancelling())
