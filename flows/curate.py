"""The main job: from a pool to a published selection."""

import time
from dataclasses import dataclass, field
from functools import partial

from prefect import flow, unmapped

from flows.execution.attempt import recorded_attempt
from flows.execution.deployment_runs import score_everywhere
from flows.execution.executor import Executor
from flows.execution.futures import results_of
from flows.execution.open_executor import open_executor
from flows.execution.rounds import Scoring
from flows.execution.stopping import finish_cancellation, stoppably, tasks_end_with_flow
from nuggets.config.configs import CurateConfig
from nuggets.runs.engine_paths import read_engine_paths
from nuggets.runs.manifest import RunState
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.publish import Selection
from nuggets.steps.run_cells import kept_cells
from nuggets.stopping import check_stop
from tasks.anchor_set import choose_anchor_set, look_for_anchor_set
from tasks.baseline import measure_baseline
from tasks.check_prompts import check_anchors, check_prompts, join_checks, look_for_unchecked
from tasks.embed import embed
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.publish import publish
from tasks.run_state import record_state
from tasks.score_candidates import score_candidates


@dataclass
class Stopwatch:
    """Wall seconds per stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on a stage. Raises Interrupted if a stop was requested meanwhile."""
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now
        check_stop()


@flow(
    name="curate",
    flow_run_name="curate {config.pool_name}",
    persist_result=False,
    on_cancellation=[finish_cancellation],
)
def curate(config: CurateConfig) -> Selection:
    """Choose the examples of a pool that help a frozen language model most, and publish them.

    Cells that are in the store are not computed again: the same parameters continue a run that failed, was interrupted
    or was lost.

    Args:
        config: The pool, the model, the cut, and where to run.
    """
    return stoppably(_curate, config)


def _curate(config: CurateConfig) -> Selection:
    watch = Stopwatch()
    # The executor first: if its devices or its cluster are missing, an earlier run of this name keeps its state.
    with open_executor(config) as executor:
        prepared = prepare(config)
        attempt = recorded_attempt(prepared.store, prepared.name, prepared.attempt, seconds=watch.seconds)
        with attempt, tasks_end_with_flow():
            return _score_and_publish(config, prepared, watch, executor)


def _score_and_publish(config: CurateConfig, prepared: PreparedRun, watch: Stopwatch, executor: Executor) -> Selection:
    watch.lap("prepare")
    pool = ingest(prepared, config)
    watch.lap("ingest")
    remote = unmapped(executor.remote)
    unchecked = look_for_unchecked(prepared, pool)
    if unchecked:
        checks = executor.map(check_prompts, prepared=unmapped(prepared), unchecked=unchecked, remote=remote)
        results_of("prompts", executor, checks)
    prompts = join_checks(prepared, pool)
    watch.lap("prompts")
    anchor_set = look_for_anchor_set(prepared, config, pool)
    if anchor_set is None:
        shards = list(pool.shards)
        shard_arguments = {"index": list(range(len(shards))), "shard": shards}
        embeddings = results_of(
            "embed", executor, executor.map(embed, prepared=unmapped(prepared), **shard_arguments, remote=remote)
        )
        watch.lap("embed")
        anchor_set = choose_anchor_set(prepared, config, pool, embeddings)
    anchor_prompts = check_anchors(prepared, anchor_set.path)
    watch.lap("anchors")
    starts = list(range(0, anchor_set.anchors, config.shard_size))
    stops = [min(start + config.shard_size, anchor_set.anchors) for start in starts]
    same = {"prepared": unmapped(prepared), "anchors_path": unmapped(anchor_set.path)}
    measured = executor.map(measure_baseline, **same, start=starts, stop=stops, remote=remote)
    results_of("baseline", executor, measured)
    watch.lap("baseline")
    cut = config.cut if config.racing == "on" else None
    scoring = Scoring(prepared, pool, anchor_set.path, cut, executor)
    counts = {"rows": pool.rows, "examples": pool.examples, "anchors": anchor_set.anchors}
    counts |= {**anchor_set.counts, **prompts.counts, **anchor_prompts.counts}
    record = partial(record_state, prepared.store, prepared.name, attempt=prepared.attempt)
    with kept_cells(config.memory_mib << 20):
        first = scoring.first_plan()
        counts |= {"cells": first.table, "cells_found": first.stored, "cells_computed": 0, "rounds": 0}
        references = {"pool": pool.id, "anchors": anchor_set.path, "scoring_key": prepared.setup.key}
        references |= {"prompts": prompts.path, "anchor_prompts": anchor_prompts.path}
        references |= {"encoder": anchor_set.encoder} if anchor_set.encoder else {}
        # Before scoring, so that the cells of an interrupted run can be exported.
        record(RunState.RUNNING, references=references, counts=counts)
        scored = score_everywhere(scoring, first)
        watch.lap("score")
        conflicts = score_candidates(prepared, pool, anchor_set.path)
        watch.lap("score candidates")
    counts = {"cells_computed": scored.computed, "rounds": scored.rounds, "cell_conflicts": conflicts}
    paths = {"engine_paths": read_engine_paths(prepared.store, prepared.name)}
    record(RunState.RUNNING, references=paths, counts=counts, seconds=watch.seconds)  # the report shows them
    selection = publish(prepared.store, prepared.name, config.cut, config.memory_mib)
    record(RunState.COMPLETE)
    return selection
