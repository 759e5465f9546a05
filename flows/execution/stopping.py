"""How a run is stopped: which part receives which signal, and what ends when.

```
 Ctrl-C or SIGTERM to a command              Cancel in the UI, or SIGTERM to a worker
   | signals_stop, sigterm_stops               | Prefect raises a BaseException in the flow
   |   1st: request_stop                       | tasks_end_with_flow
   |   2nd: the process exits at once          |   request_stop
   v                                           v
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
 the flow records `interrupted` in the run's manifest (attempt.py), closes its executor, and ends;
 finish_cancellation moves a flow run that is CANCELLING to CANCELLED
```

Flow runs of a deployment are separate flows: deployment_runs.py sets them to CANCELLING.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from nuggets.progress import report_stage
from nuggets.stopping import request_stop, stop_requested

if TYPE_CHECKING:  # commands that run no flow import this module, and Prefect takes seconds to import
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

_received = signal.SIGINT  # the last signal; signal handlers belong to the process, and so does this
_is_command = False  # whether this process is a command


@contextmanager
def signals_stop() -> Iterator[None]:
    """While this lasts, the first Ctrl-C or SIGTERM requests a stop of all work, and the second ends the process."""
    global _is_command
    with _handled(signal.SIGINT, signal.SIGTERM):
        _is_command = True
        try:
            yield
        finally:
            _is_command = False


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """Handle SIGTERM as `signals_stop` does, inside a flow, where Prefect has installed another handler.

    Only in a command: a worker that cancels a flow run needs Prefect's handler.
    """
    if not _is_command:
        yield
        return
    with _handled(signal.SIGTERM):
        yield


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
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext
    from prefect.states import Cancelling

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, Cancelling())
    except Exception as error:  # then the tasks end with their cluster
        report_stage(f"the tasks on the cluster could not be notified to stop: {error}")


def finish_cancellation(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Set a flow run that is CANCELLING to CANCELLED, the only state that can follow. A cancellation hook of flows.

    A Prefect worker does this for the flow runs that it has started.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Cancelled())


def interrupted_exit_code() -> int:
    """The exit code of an interrupted command, as shells define it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _received


@contextmanager
def _handled(*numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, _on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signal(number: int, _: FrameType | None) -> None:
    global _received
    _received = signal.Signals(number)
    if stop_requested():
        os._exit(interrupted_exit_code())  # at once; only cells since the last commit are lost
    request_stop()
    again = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    os.write(2, f"\nstopping after the current work; {again} again to stop at once\n".encode())
