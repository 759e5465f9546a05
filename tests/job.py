"""The whole job over the steps of the core, without Prefect: for tests of what the steps leave in a store."""

from nuggets.anchors.anchor_set import read_anchors
from nuggets.config.configs import CurateConfig, ReselectConfig
from nuggets.pools.shards import Pool, read_pool_record
from nuggets.runs.manifest import RunState, read_run, record_state
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.cuts import Cut
from nuggets.steps.check_prompts import CheckedPrompts, check_anchors, check_shard, join_checks, unchecked_shards
from nuggets.steps.choose_anchors import find_anchors, known_anchors
from nuggets.steps.embed_shard import embed_shard
from nuggets.steps.ingest import ingest_run_pool
from nuggets.steps.measure_baseline import measure_missing
from nuggets.steps.plan_round import plan_round
from nuggets.steps.prepare import prepare_run, resume_run
from nuggets.steps.publish import Selection, publish_selection, undecided_candidates
from nuggets.steps.score_candidates import score_candidates
from nuggets.steps.score_cells import score_unit
from nuggets.store.store import open_store


def curate(config: CurateConfig) -> Selection:
    """What the flow `curate` does when nothing goes wrong: one step after the other, in this process."""
    prepared = prepare_run(config)
    pool = ingest_run_pool(prepared, config)
    checked = check_prompts(prepared, pool)
    anchors = known_anchors(prepared, config, pool)
    if anchors is None:
        anchors = find_anchors(prepared, config, pool, [embed_shard(prepared, shard) for shard in pool.shards])
    checked |= {"anchor_prompts": check_anchors(prepared, anchors.path)}
    references = {name: found.path for name, found in checked.items()}
    references |= {"encoder": anchors.encoder} if anchors.encoder else {}
    counts = dict(count for found in checked.values() for count in found.counts.items()) | anchors.counts
    record_state(prepared.store, prepared.name, RunState.RUNNING, references=references, counts=counts)
    measure_missing(prepared, anchors.path, 0, anchors.anchors)
    score(prepared, pool, anchors.path, config.cut if config.racing == "on" else None)
    return publish_selection(prepared.store, prepared.name, config.cut)


def check_prompts(prepared: PreparedRun, pool: Pool) -> dict[str, CheckedPrompts]:
    """Make the prompts of all candidates that no run has made before."""
    for unchecked in unchecked_shards(prepared, pool):
        check_shard(prepared, unchecked)
    return {"prompts": join_checks(prepared, pool)}


def reselect(config: ReselectConfig) -> Selection:
    """What the flow `reselect` does: score what the cut needs and lacks, then publish."""
    store = open_store(config.store, config.s3_endpoint)
    if undecided_candidates(store, config.run, config.cut):
        prepared = resume_run(store, config.run)
        references = read_run(store, config.run).references
        score(prepared, read_pool_record(store, references["pool"]), references["anchors"], config.cut)
    return publish_selection(store, config.run, config.cut)


def score(prepared: PreparedRun, pool: Pool, anchors: str, cut: Cut | None) -> None:
    """Score in rounds until the cut is decided, without a cut until no cell is missing, and count in the manifest."""
    plan = first = plan_round(prepared, pool, anchors, cut, number=0)
    computed = 0
    while plan.units:
        computed += sum(score_unit(prepared, unit, anchors) for unit in plan.units)
        plan = plan_round(prepared, pool, anchors, cut, number=plan.number + 1)
    conflicts = score_candidates(prepared, pool, anchors)
    references = {"pool": pool.id, "anchors": anchors, "scoring_key": prepared.setup.key}
    counts = {"cells": first.table, "cells_found": first.stored, "cells_computed": computed, "rounds": plan.number}
    counts |= {"rows": pool.rows, "examples": pool.examples, "anchors": len(read_anchors(prepared.store, anchors))}
    counts["cell_conflicts"] = conflicts
    record_state(prepared.store, prepared.name, RunState.COMPLETE, references=references, counts=counts)
