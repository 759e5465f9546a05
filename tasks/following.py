"""A task in another process than its flow: it hears no signal, so it asks the API whether its flow run has ended."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import TaskRunContext

from nuggets.stopping import clear_stop, request_stop

_SECONDS = 3.0  # between two looks; the first one is before anything is computed


@contextmanager
def stops_with_flow_run(elsewhere: bool) -> Iterator[None]:
    """Ask this process to stop when the task's flow run is cancelled or over, if that happens `elsewhere`."""
    context = TaskRunContext.get()
    flow_run = context.task_run.flow_run_id if context else None
    if not elsewhere or flow_run is None:
        yield
        return
    clear_stop()  # an earlier task of this process may have been asked to
    with get_client(sync_client=True) as client:
        if _is_over(client, flow_run):  # it was waiting for its turn when that happened
            request_stop()
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(flow_run, done), daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def _watch(flow_run: UUID, done: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not done.wait(_SECONDS):
            if _is_over(client, flow_run):
                request_stop()
                return


def _is_over(client: SyncPrefectClient, flow_run: UUID) -> bool:
    try:
        state = client.read_flow_run(flow_run).state
    except Exception:  # an API that is away for a while is no reason to stop scoring
        return False
    return state is not None and (state.is_final() or state.is_cancelling())
