"""Measure the zero-shot baseline of some anchors."""

from prefect import task

from nuggets.devices.worker_pool import run_on_device
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.measure_baseline import measure_missing
from tasks.cancellation_watch import stops_with_flow_run
from tasks.retry_policy import RETRYING


@task(task_run_name="zero-shot baseline of anchors {start} to {stop}", **RETRYING)
def measure_baseline(prepared: PreparedRun, anchors_path: str, start: int, stop: int, remote: bool) -> int:
    """Measure the anchors that have no stored baseline; returns how many were measured. `remote` as for `score`."""
    with stops_with_flow_run(remote):
        measured: int = run_on_device(measure_missing, prepared, anchors_path, start, stop)
    return measured
