"""The plan of a round: every worker gets tasks, no cell is in two of them, and a kept table changes no plan."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import job
import numpy as np
import pyarrow as pa
import pytest
from conftest import EXAMPLES

from nuggets.anchors.anchor_set import read_anchors
from nuggets.cells.blocks import CellBlock, write_block
from nuggets.cells.folders import cells_folder, compact, list_blocks
from nuggets.cells.unscorable import record_unscorable
from nuggets.config.configs import CurateConfig
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source
from nuggets.pools.shards import Pool, read_candidates, read_ids
from nuggets.racing.next_round import CellsToCompute, ShardGains
from nuggets.racing.work_list import read_worklist
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.cuts import Cut, Threshold, TopK
from nuggets.scores.score_table import read_score_table
from nuggets.steps.choose_anchors import known_anchors
from nuggets.steps.measure_baseline import measure_missing
from nuggets.steps.plan_round import Round, group_work, plan_round
from nuggets.steps.prepare import prepare_run
from nuggets.steps.run_cells import kept_cells
from nuggets.steps.score_candidates import score_candidates

ANCHORS = 6


@pytest.fixture
def planned(tmp_path: Path, pool_file: Path, tiny_model: Path) -> tuple[PreparedRun, Pool, str]:
    """A run of twenty examples in shards of eight, ready to be scored."""
    anchors = tmp_path / "anchors.json"
    anchors.write_text(json.dumps(EXAMPLES[:ANCHORS]))
    config = CurateConfig(
        pool=str(pool_file), store=str(tmp_path / "store"), model=str(tiny_model), run="r", anchor_file=str(anchors)
    )
    prepared = prepare_run(config)
    pool = ingest_pool(
        prepared.store,
        find_source(config.pool),
        prepared.pool_digest,
        shard_size=8,
        max_row_bytes=10_000,
        max_rejected_share=0.5,
    )
    job.check_prompts(prepared, pool)
    anchor_set = known_anchors(prepared, config, pool)
    assert anchor_set is not None
    measure_missing(prepared, anchor_set.path, 0, anchor_set.anchors)
    return prepared, pool, anchor_set.path


def cells(prepared: PreparedRun, plan: Round) -> Counter[tuple[str, int]]:
    """How often each candidate and anchor occurs in the work lists of a round."""
    store = prepared.store
    requested: Counter[tuple[str, int]] = Counter()
    for shard, work in (item for unit in plan.units for item in read_worklist(store, unit.worklist).items()):
        ids = read_ids(store, shard)[0].take(work.positions).to_pylist()
        requested.update((ids[row], anchor) for row, anchor in np.argwhere(work.cells).tolist())
    return requested


@pytest.mark.parametrize("cut", [None, TopK(2)], ids=["whole table", "race"])
@pytest.mark.parametrize("workers", [1, 2, 3, 8, 100])
def test_a_round_has_a_task_for_every_worker(
    planned: tuple[PreparedRun, Pool, str], workers: int, cut: Cut | None
) -> None:
    prepared, pool, anchors = planned
    alone = plan_round(prepared, pool, anchors, cut, number=0)
    plan = plan_round(prepared, pool, anchors, cut, number=0, workers=workers)
    asked = cells(prepared, plan)
    candidates = len({candidate for candidate, _ in asked})
    assert asked == cells(prepared, alone) and set(asked.values()) == {1}
    assert len(plan.units) >= min(workers, candidates)
    assert sum(unit.cells for unit in plan.units) == len(asked)
    assert all(unit.candidates for unit in plan.units)
    assert len({unit.worklist for unit in plan.units}) == len(plan.units)


def test_cells_that_another_run_has_stored_meanwhile_are_in_no_task() -> None:
    ids, gains = pa.array(["a", "b"]), np.zeros((2, 3), dtype=np.float32)
    shard = ShardGains(0, ids, gains, np.ones((2, 3), dtype=bool))
    some = np.array([[True, False, True], [False, False, False]])
    assert list(group_work([CellsToCompute(shard, np.zeros((2, 3), dtype=bool))], cells_at_most=2)) == []
    (task,) = group_work(
        [CellsToCompute(shard, np.zeros((2, 3), dtype=bool)), CellsToCompute(shard, some)], cells_at_most=2
    )
    assert [(piece.work.positions.tolist(), piece.work.cells.tolist()) for piece in task] == [
        ([0], [[True, False, True]])
    ]


def test_busy_shards_are_in_no_task(planned: tuple[PreparedRun, Pool, str]) -> None:
    prepared, pool, anchors = planned
    for cut in (None, TopK(2)):
        plan = plan_round(prepared, pool, anchors, cut, number=0, busy=[0], workers=4)
        assert plan.units and all(0 not in unit.shards for unit in plan.units)


def test_stored_cells_and_cells_to_compute_are_logged(
    planned: tuple[PreparedRun, Pool, str], caplog: pytest.LogCaptureFixture
) -> None:
    prepared, pool, anchors = planned

    def lines(cut: Cut | None) -> list[str]:
        caplog.clear()
        plan_round(prepared, pool, anchors, cut, number=0)
        return [record.getMessage() for record in caplog.records if record.name == "nuggets.progress"]

    caplog.set_level("INFO", "nuggets.progress")
    store = prepared.store
    assert lines(None) == ["cells: 120 in the full table, 0 stored, 120 to compute"]
    race, first = lines(TopK(2))
    assert race == "cells: 120 in the full table, 0 stored, at most 120 to compute"
    assert first.startswith("round 0: 20 of 20 candidates undecided, ")
    ids = sorted(candidate.id for shard in pool.shards for candidate in read_candidates(store, shard))
    anchor_ids = tuple(anchor.id for anchor in read_anchors(store, anchors))
    values = np.zeros((20, ANCHORS), dtype=np.float32)  # wins
    values[0] = -1e6
    values[0, 0] = values[0, -1] = np.nan
    write_block(store, cells_folder(prepared.setup.key, ids), CellBlock(tuple(ids), anchor_ids, values))
    assert lines(None) == ["cells: 120 in the full table, 118 stored, 2 to compute"]
    assert lines(Threshold(0.9)) == ["cells: 120 in the full table, 118 stored, nothing to compute: the cut is certain"]
    race, first = lines(Threshold(0.1))
    assert race == "cells: 120 in the full table, 118 stored, at most 2 to compute"
    assert first.startswith("round 0: 1 of 20 candidates undecided, ") and first.endswith(" of 1 candidate next")


def store_cells(prepared: PreparedRun, anchors: str, requested: Iterable[tuple[str, int]], *, nats: float) -> None:
    """Store cells, wins and losses by turns, as a task or another run does."""
    ids = [anchor.id for anchor in read_anchors(prepared.store, anchors)]
    rows: dict[str, np.ndarray] = {}
    for candidate, anchor in requested:
        row = rows.setdefault(candidate, np.full(ANCHORS, np.nan, dtype=np.float32))
        row[anchor] = nats if (int(candidate[:6], 16) + anchor) % 2 else -1e6
    candidates = tuple(sorted(rows))
    values = np.array([rows[candidate] for candidate in candidates])
    write_block(prepared.store, cells_folder(prepared.setup.key, candidates), CellBlock(candidates, tuple(ids), values))


@pytest.mark.parametrize("cut", [None, TopK(2), Threshold(0.5)], ids=["whole table", "best 2", "threshold"])
def test_a_kept_table_plans_the_rounds_that_reading_all_cells_anew_plans(
    planned: tuple[PreparedRun, Pool, str], cut: Cut | None
) -> None:
    prepared, pool, anchors = planned
    ids = sorted(candidate.id for shard in pool.shards for candidate in read_candidates(prepared.store, shard))
    number = 0
    with kept_cells():
        while True:
            kept = plan_round(prepared, pool, anchors, cut, number=number)
            with kept_cells(memory=0):
                anew = plan_round(prepared, pool, anchors, cut, number=number)
            assert kept == anew  # also the paths of the work lists, which are digests of their content
            if not kept.units:
                break
            store_cells(prepared, anchors, cells(prepared, kept), nats=0.0)
            if number == 1:  # another run of the pool stores a cell, and joins blocks
                store_cells(prepared, anchors, [(ids[0], 0)], nats=0.0)
            for folder in {path.rpartition("/")[0] for path in list_blocks(prepared.store, "cells")}:
                compact(prepared.store, folder)
            number += 1
        assert score_candidates(prepared, pool, anchors) == 0
    assert number > 0
    assert sum(len(table) for table in read_score_table(prepared.store, prepared.name)) == 20


def test_a_candidate_that_becomes_unscorable_between_two_rounds_gets_no_work(
    planned: tuple[PreparedRun, Pool, str],
) -> None:
    prepared, pool, anchors = planned
    prepared = replace(prepared, max_bad_candidates=1)
    with kept_cells():
        asked = cells(prepared, plan_round(prepared, pool, anchors, None, number=0))
        broken = min(asked)[0]
        (anchor, *_) = read_anchors(prepared.store, anchors)
        record_unscorable(prepared.store, prepared.setup.key, {broken: [anchor.id]})
        asked = cells(prepared, plan_round(prepared, pool, anchors, None, number=1))
    assert len(asked) == 19 * ANCHORS and broken not in {candidate for candidate, _ in asked}


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_cells_with_two_values_are_counted(planned: tuple[PreparedRun, Pool, str], memory: int) -> None:
    prepared, pool, anchors = planned
    asked = sorted(cells(prepared, plan_round(prepared, pool, anchors, None, number=0)))
    with kept_cells(memory):
        for nats in (0.0, -0.5):  # half of the cells of each block have the same value in both
            store_cells(prepared, anchors, asked[:10], nats=nats)
        assert score_candidates(prepared, pool, anchors) == 5
