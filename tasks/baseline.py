"""Measure the zero-shot baseline of some anchors."""

from prefect import task

from nuggets.baseline import measure_missing
from nuggets.device_processes import on_device
from nuggets.preparation import PreparedRun
from nuggets.stopping import check_stop
from tasks.retrying import RETRYING
from tasks.s3_endpoint import s3_endpoint


@task(task_run_name="zero-shot baseline of anchors {start} to {stop}", **RETRYING)
def measure_baseline(prepared: PreparedRun, anchors_path: str, start: int, stop: int) -> int:
    """How many anchors were measured; those whose baseline is stored are not measured again."""
    check_stop()
    with s3_endpoint(prepared.s3_endpoint):
        return on_device(measure_missing, prepared, anchors_path, start, stop)
