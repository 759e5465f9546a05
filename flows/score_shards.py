"""Score a part of a run's shards: started by a run that uses a deployment, or by hand on one more machine."""

from prefect import flow

from flows.execution.open_executor import open_executor
from flows.execution.rounds import Scoring, score_in_rounds
from flows.execution.stopping import finish_cancellation, stoppably, tasks_end_with_flow
from nuggets.config.configs import ScoreShardsConfig
from nuggets.steps.run_cells import kept_cells
from nuggets.store.store import open_store
from tasks.resume import resume


@flow(
    name="score-shards",
    flow_run_name="score part {config.part} of {config.parts} of {config.run}",
    persist_result=False,
    on_cancellation=[finish_cancellation],
)
def score_shards(config: ScoreShardsConfig) -> int:
    """Compute the missing cells of a part of a run's shards and store them; returns how many were computed.

    Publishes nothing and leaves the state of the run alone.

    Args:
        config: The run, its store, the part, and the cut that the race is for.
    """
    return stoppably(_score_shards, config)


def _score_shards(config: ScoreShardsConfig) -> int:
    with open_executor(config) as executor, tasks_end_with_flow(), kept_cells():
        run = resume(open_store(config.store, config.s3_endpoint), config.run)
        others = tuple(shard for shard in range(len(run.pool.shards)) if shard % config.parts != config.part)
        scoring = Scoring(run.prepared, run.pool, run.anchors, config.cut or run.cut, executor, others)
        return score_in_rounds(scoring, scoring.plan(0)).computed
