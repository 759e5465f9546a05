"""Choose the anchors."""

from prefect import task

from nuggets.anchor_choice import AnchorSet, choose_anchors
from nuggets.config import CurateConfig
from nuggets.pool import Pool
from nuggets.preparation import PreparedRun
from nuggets.progress import report_stage
from tasks.retrying import RETRYING


@task(task_run_name="choose anchors of {prepared.name}", **RETRYING)
def choose_anchor_set(prepared: PreparedRun, config: CurateConfig, pool: Pool, embeddings: list[str]) -> AnchorSet:
    """The anchor set: k-means over the embeddings, or the user's file as it is."""
    chosen = choose_anchors(prepared, config, pool, embeddings)
    origin = f"from {config.anchor_file}" if config.anchor_file else "by k-means"
    report_stage(f"anchors: {chosen.anchors} {origin}")
    return chosen
