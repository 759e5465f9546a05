"""Measure the zero-shot baseline of some anchors."""

from prefect import task

from nuggets.baseline import measure_missing
from nuggets.device_processes import on_device
from nuggets.preparation import PreparedRun
from nuggets.s3_endpoint import at_s3_endpoint
from tasks.following import stops_with_flow_run
from tasks.retrying import RETRYING


@task(task_run_name="zero-shot baseline of anchors {start} to {stop}", **RETRYING)
def measure_baseline(prepared: PreparedRun, anchors_path: str, start: int, stop: int, elsewhere: bool) -> int:
    """How many anchors were measured; those with a stored baseline are not. `elsewhere` as for `score`."""
    with stops_with_flow_run(elsewhere):
        measured: int = on_device(
            at_s3_endpoint, prepared.s3_endpoint, measure_missing, prepared, anchors_path, start, stop
        )
    return measured
