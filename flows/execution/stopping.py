"""How a run is stopped: which part receives which request, and what ends when. docs/operations.md has the table.

```
 Ctrl-C, SIGTERM, SIGHUP     flow run cancelled or deleted,     Cancel in the UI, or SIGTERM to
 to a command                or its worker has ended            the worker of a flow run
   | signals.py                | polled by a thread               | Prefect raises a BaseException
   |   1st: request_stop       |   request_stop                   | in the flow; tasks_end_with_flow
   |   2nd: exit at once       |                                  |   request_stop
   v                           v                                  v
 +---------------------- stop flag of the process: nuggets.stopping ----------------------+
 | the flow checks it between stages and while it waits for tasks, and raises Interrupted |
 +----------------------------------------------------------------------------------------+
   |                            |                              |
   v tasks on threads           v processes on devices         v tasks on Dask or Ray
     check the flag between       receive a message from         poll the state of their flow run
     two candidates               nuggets.devices                (tasks.cancellation_watch), which
                                                                 notify_remote_tasks sets to CANCELLING
   |                            |                              |
   +----------------------------+------------------------------+
   | each task stores the cells that it has computed, and ends
   v
 the flow records `interrupted` in the run's manifest (attempt.py), closes its executor, and ends as CANCELLED
 (stoppably); where Prefect raised the BaseException, Prefect sets the final state
```

Flow runs of a deployment are separate flows: deployment_runs.py sets them to CANCELLING.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

from flows.execution.signals import is_command, sigterm_stops, write_nowhere
from nuggets.errors import Interrupted
from nuggets.progress import report_stage
from nuggets.stopping import clear_stop, request_stop
from tasks.cancellation_watch import Check, polled, why_over

C = TypeVar("C")
T = TypeVar("T")
_POLL_SECONDS = 3.0


def stoppably(work: Callable[[C], T], config: C) -> T:
    """Do the work of a flow: signals, and what happens to its flow run, stop it.

    A stopped flow ends as CANCELLED: an error would end it as FAILED, which reads like a fault.
    """
    if not is_command():  # a command clears earlier requests itself, and one may have come before its flow began
        clear_stop()
    with sigterm_stops(), _flow_run_polled():
        try:
            return work(config)
        except Interrupted as error:
            request_stop(f"{error}")  # a task on a cluster may have found the request before this process
            return Cancelled(message=f"{error}")  # type: ignore[return-value]


@contextmanager
def tasks_end_with_flow() -> Iterator[None]:
    """Request a stop when the flow is ended: its tasks run in other threads, and store what they have computed."""
    try:
        yield
    except Exception:
        raise
    except BaseException:  # Prefect and Python end a flow with one
        request_stop()
        raise


def notify_remote_tasks() -> None:
    """Set the flow run to CANCELLING: tasks on a Dask or Ray cluster poll its state, and no signal reaches them."""
    flow_run = _flow_run()
    if flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run, Cancelling())
    except ObjectNotFound:
        return  # the tasks find that it was deleted
    except Exception as error:  # then the tasks end with their cluster
        report_stage(f"the tasks on the cluster could not be notified to stop: {error}")


def finish_cancellation(flow: "Flow[..., Any]", flow_run: FlowRun, state: "State[Any]") -> None:
    """Set a flow run that is CANCELLING to CANCELLED, the only state that can follow. A cancellation hook of flows.

    It is needed where a flow run is cancelled after its flow has checked for a stop for the last time. A Prefect worker
    does this for the flow runs that it has started.
    """
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Cancelled())


@contextmanager
def _flow_run_polled() -> Iterator[None]:
    """Request a stop when this flow run is cancelled or deleted, or when its worker has ended."""
    flow_run = _flow_run()
    if flow_run is None:
        yield
        return
    with polled(flow_run, request_stop, seconds=_POLL_SECONDS, check=_check_of_this_process()):
        yield


def _check_of_this_process() -> Check:
    if "PREFECT__FLOW_RUN_ID" not in os.environ:  # no worker has started this process
        return why_over
    worker = os.getppid()

    def check(client: SyncPrefectClient, flow_run: UUID) -> str:
        if os.getppid() != worker:
            write_nowhere()  # the worker read this process's output
            return "stopped because the worker that started its flow run has ended"
        # A worker ends a flow run that is CANCELLING with a signal, and sets its final state.
        return why_over(client, flow_run, is_cancelled_here=False)

    return check


def _flow_run() -> UUID | None:
    context = FlowRunContext.get()
    return context.flow_run.id if context is not None and context.flow_run is not None else None
