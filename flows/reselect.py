"""A new cut on a finished run: no model and no scoring, unless the cut needs cells that no earlier one did."""

from functools import partial

from prefect import flow

from flows.execution.attempt import recorded_attempt
from flows.execution.deployment_runs import score_everywhere
from flows.execution.executor import Executor
from flows.execution.open_executor import open_executor
from flows.execution.rounds import Scoring
from flows.execution.stopping import finish_cancellation, stoppably, tasks_end_with_flow
from nuggets.config.configs import ReselectConfig
from nuggets.progress import report_stage
from nuggets.runs.engine_paths import read_engine_paths
from nuggets.runs.manifest import RunState
from nuggets.steps.publish import Selection
from nuggets.steps.run_cells import kept_cells
from nuggets.store.store import open_store
from tasks.count_undecided import count_undecided
from tasks.publish import publish
from tasks.resume import ResumedRun, resume
from tasks.run_state import claim_run, record_state
from tasks.score_candidates import score_candidates


@flow(
    name="reselect", flow_run_name="reselect {config.run}", persist_result=False, on_cancellation=[finish_cancellation]
)
def reselect(config: ReselectConfig) -> Selection:
    """Apply another cut to a run's golden scores and publish it beside the earlier selections.

    A cut that needs further cells computes them, which changes the state of the run; any other cut only reads the run.
    If another flow is working on the run, this flow computes and publishes, and leaves the run's state to that flow.

    Args:
        config: The run, its store, and the new cut.
    """
    return stoppably(_reselect, config)


def _reselect(config: ReselectConfig) -> Selection:
    store = open_store(config.store, config.s3_endpoint)
    undecided = count_undecided(store, config.run, config.cut)
    if not undecided:
        return publish(store, config.run, config.cut, config.memory_mib)
    report_stage(
        f"run {config.run}: {undecided} candidates lack cells that this cut needs; scoring continues from the "
        "stored cells"
    )
    with open_executor(config) as executor:
        run = resume(store, config.run)
        attempt = claim_run(store, config.run)
        with recorded_attempt(store, config.run, attempt), tasks_end_with_flow():
            return _score_and_publish(config, run, attempt, executor)


def _score_and_publish(config: ReselectConfig, run: ResumedRun, attempt: str, executor: Executor) -> Selection:
    scoring = Scoring(run.prepared, run.pool, run.anchors, config.cut, executor)
    with kept_cells(config.memory_mib << 20):
        first = scoring.first_plan()
        scored = score_everywhere(scoring, first)
        conflicts = score_candidates(run.prepared, run.pool, run.anchors)
    record = partial(record_state, run.prepared.store, config.run, attempt=attempt)
    counts = {
        "cells_found": first.stored,
        "cells_computed": scored.computed,
        "rounds": scored.rounds,
        "cell_conflicts": conflicts,
    }
    references = {"engine_paths": read_engine_paths(run.prepared.store, config.run)}
    record(RunState.RUNNING, references=references, counts=counts)  # the report shows them
    selection = publish(run.prepared.store, config.run, config.cut, config.memory_mib)
    record(RunState.COMPLETE)
    return selection
