"""The anchor set of a run: a known one, or one that k-means chooses from the pool's embeddings."""

from prefect import task

from nuggets.anchors.anchor_set import AnchorSetRef
from nuggets.config.configs import CurateConfig
from nuggets.pools.shards import Pool
from nuggets.progress import report_stage
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.choose_anchors import find_anchors, known_anchors
from tasks.retry_policy import RETRYING


@task(task_run_name="look for anchors of {prepared.name}", **RETRYING)
def look_for_anchor_set(prepared: PreparedRun, config: CurateConfig, pool: Pool) -> AnchorSetRef | None:
    """Return the anchors of the user's file or of an earlier run; None if they must be chosen from embeddings."""
    known = known_anchors(prepared, config, pool)
    if known is not None:
        named = f"of set {config.anchor_set}" if config.anchor_set else "found by an earlier run"
        origin = f"from {config.anchor_file}" if config.anchor_file else named
        encoder = f"; encoder {known.encoder}" if known.encoder else ""
        report_stage(f"anchors: {known.anchors} {origin}{encoder}")
    return known


@task(task_run_name="choose anchors of {prepared.name}", **RETRYING)
def choose_anchor_set(prepared: PreparedRun, config: CurateConfig, pool: Pool, embeddings: list[str]) -> AnchorSetRef:
    """Choose the anchors by k-means over the embeddings, and store them."""
    chosen = find_anchors(prepared, config, pool, embeddings)
    report_stage(f"anchors: {chosen.anchors} by k-means")
    return chosen
