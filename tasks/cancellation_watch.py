"""Stop a task that runs on a cluster: no signal reaches it, so a thread polls the state of its flow run."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import TaskRunContext

from nuggets.stopping import check_stop, stopped_by

# Between two polls, plus or minus a random half: hundreds of tasks may poll one server. The first poll is before the
# work. A flow that is stopped waits three times as long for its tasks.
_SECONDS = 6.0


@contextmanager
def stops_with_flow_run(remote: bool) -> Iterator[None]:
    """Stop the work of this task when its flow run is cancelled or over, if the task is `remote`.

    Raises Interrupted if the flow run is over, or a stop was requested, before the work starts.
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
        if _is_over(client, flow_run):  # cancelled while the task waited in the queue
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
    except Exception:  # a server that does not answer must not stop scoring
        return False
    return state is not None and (state.is_final() or state.is_cancelling())
