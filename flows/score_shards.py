"""Score a part of a run's shards: what a run hands to many machines, or an operator to one more of them."""

from prefect import flow

from flows.execution.cancelling import cancelled_at_last, tasks_end_with_flow
from flows.execution.open_executor import open_executor
from flows.execution.rounds import Scoring, score_in_rounds
from flows.execution.signals import sigterm_stops
from nuggets.config.configs import ScoreShardsConfig
from nuggets.steps.run_cells import kept_cells
from nuggets.store.store import open_store
from tasks.resume import resume


@flow(
    name="score-shards",
    flow_run_name="score part {config.part} of {config.parts} of {config.run}",
    persist_result=False,
    on_cancellation=[cancelled_at_last],
)
def score_shards(config: ScoreShardsConfig) -> int:
    """Compute the cells that a part of a run's shards lacks; returns how many. They appear in the store as they come.

    Args:
        config: The run, its store, the part, and the cut that the race is for.
    """
    with sigterm_stops(), open_executor(config) as executor, tasks_end_with_flow(), kept_cells():
        run = resume(open_store(config.store, config.s3_endpoint), config.run)
        others = tuple(shard for shard in range(len(run.pool.shards)) if shard % config.parts != config.part)
        scoring = Scoring(run.prepared, run.pool, run.anchors, config.cut or run.cut, executor, others)
        return score_in_rounds(scoring, scoring.plan(0)).computed
