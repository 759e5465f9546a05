"""A new cut on a finished run: no model and no scoring, unless the cut needs cells that no earlier one did."""

from prefect import flow

from flows.execution.cancelling import cancelled_at_last, tasks_end_with_flow
from flows.execution.deployment_runs import score_everywhere
from flows.execution.open_executor import open_executor
from flows.execution.rounds import Scoring
from flows.execution.signals import sigterm_stops
from nuggets.config.configs import ReselectConfig
from nuggets.progress import report_stage
from nuggets.runs.manifest import RunState
from nuggets.steps.publish import Selection
from nuggets.store.store import open_store
from tasks.count_undecided import count_undecided
from tasks.publish import publish
from tasks.resume import reopen
from tasks.run_state import record
from tasks.score_candidates import judge


@flow(name="reselect", flow_run_name="reselect {config.run}", persist_result=False, on_cancellation=[cancelled_at_last])
def reselect(config: ReselectConfig) -> Selection:
    """Apply another cut to a run's golden scores and publish it beside the earlier selections.

    Args:
        config: The run, its store, and the new cut.
    """
    store = open_store(config.store, config.s3_endpoint)
    with sigterm_stops():
        undecided = count_undecided(store, config.run, config.cut)
        if undecided:
            report_stage(
                f"run {config.run}: {undecided} candidates lack cells that this cut needs; "
                "scoring goes on where it stopped"
            )
            run = reopen(store, config.run)
            with open_executor(config) as executor, tasks_end_with_flow():
                scoring = Scoring(run.prepared, run.pool, run.anchors, config.cut, executor)
                first = scoring.plan(0)
                scored = score_everywhere(scoring, first)
            judge(run.prepared, run.pool, run.anchors)
            counts = {"cells_found": first.found, "cells_computed": scored.computed, "rounds": scored.rounds}
            record(store, config.run, RunState.COMPLETE, counts=counts)
        return publish(store, config.run, config.cut, config.memory_mib)
