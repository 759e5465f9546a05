"""Open the run: hash its inputs, and create or continue its manifest."""

from prefect import task

from nuggets.config.configs import CurateConfig
from nuggets.progress import report_stage
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.prepare import prepare_run
from tasks.retry_policy import RETRYING


@task(task_run_name="prepare {config.pool_name}", **RETRYING)
def prepare(config: CurateConfig) -> PreparedRun:
    """Hash pool, model and encoder, and open the run in its store."""
    prepared = prepare_run(config)
    setup = prepared.setup
    report_stage(
        f"run {prepared.name} in {prepared.store.url}: model {setup.files.name}, profile {setup.profile}, {setup.dtype}"
    )
    return prepared
