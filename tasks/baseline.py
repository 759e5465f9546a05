"""Measure the zero-shot baseline of some anchors."""

from prefect import task

from nuggets.baseline import measure_missing
from nuggets.preparation import PreparedRun
from nuggets.stopping import check_stop
from tasks.retrying import RETRYING


@task(task_run_name="zero-shot baseline of anchors {start} to {stop}", **RETRYING)
def measure_baseline(prepared: PreparedRun, anchors_path: str, start: int, stop: int) -> int:
    """How many anchors were measured; those whose baseline is stored are not measured again."""
    check_stop()
    return measure_missing(prepared, anchors_path, start, stop)
