"""Open the run: hash its inputs, find or make its manifest."""

from prefect import task

from nuggets.config import CurateConfig
from nuggets.preparation import PreparedRun, prepare_run


@task(task_run_name="prepare {config.pool}")
def prepare(config: CurateConfig) -> PreparedRun:
    """Hash pool, model and encoder, and open the run in its store."""
    return prepare_run(config)
