"""Golden scores, computed by hand; intervals where cells are missing."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuggets.errors import DamagedTable
from nuggets.runs.manifest import golden_path
from nuggets.scores.golden import ScoreTable, eligible_cells, score_table
from nuggets.scores.score_table import read_score_table, write_score_table
from nuggets.store.parquet import table_bytes
from nuggets.store.store import Store

NAN = float("nan")
ANCHORS = ["a0", "a1", "a2", "a3"]
ZERO_SHOT = [-4.0, -8.0, -2.0, -6.0]
TOKENS = [4, 8, 1, 2]


def scored(
    cells: list[list[float]],
    *,
    zero_shot: list[float] = ZERO_SHOT,
    tokens: list[int] = TOKENS,
    ids: list[str] | None = None,
    anchors: list[str] = ANCHORS,
    keep_own_cell: bool = False,
) -> ScoreTable:
    keys = pa.array(ids or [f"c{row}" for row in range(len(cells))])
    return score_table(
        np.array(cells, dtype=np.float32),
        np.array(zero_shot, dtype=np.float32),
        np.array(tokens, dtype=np.int32),
        candidate_ids=keys,
        candidate_rows=np.arange(len(keys)) * 10,
        shard=7,
        eligible=eligible_cells(keys, anchors, keep_own_cell=keep_own_cell),
    )


def test_the_score_is_the_share_of_anchors_whose_sum_strictly_rises():
    found = scored(
        [
            [-3.0, -7.0, -1.0, -5.0],  # above everywhere
            [-4.0, -8.0, -2.0, -6.0],  # ties everywhere
            [-3.0, -9.0, -2.0, -5.5],  # above, below, tie, above
            [-9.0, -9.0, -9.0, -9.0],  # below everywhere
        ]
    )
    assert found.candidate_ids.to_pylist() == ["c0", "c1", "c2", "c3"]
    assert found.candidate_rows.tolist() == [0, 10, 20, 30]
    assert found.shards.tolist() == [7, 7, 7, 7]
    assert len(found) == 4
    assert found.wins.tolist() == [4, 0, 2, 0]
    assert found.cells.tolist() == found.anchors.tolist() == [4, 4, 4, 4]
    assert found.golden_score.tolist() == [1.0, 0.0, 0.5, 0.0]
    assert found.mean_gain.tolist() == [
        (1 / 4 + 1 / 8 + 1 / 1 + 1 / 2) / 4,
        0.0,
        (1 / 4 - 1 / 8 + 0 + 0.5 / 2) / 4,
        (-5 / 4 - 1 / 8 - 7 / 1 - 3 / 2) / 4,
    ]


def test_a_win_by_the_smallest_step_of_a_float32_is_a_win():
    above = float(np.nextafter(np.float32(-4.0), np.float32(0)))
    below = float(np.nextafter(np.float32(-4.0), np.float32(-9)))
    found = scored([[above], [-4.0], [below]], zero_shot=[-4.0], tokens=[4], anchors=["a0"])
    assert found.wins.tolist() == [1, 0, 0]


def test_the_cell_of_a_candidate_that_is_the_anchor_does_not_count():
    cells = [[9.0, -9.0, -1.0, -9.0], [9.0, -9.0, -1.0, -9.0]]
    found = scored(cells, ids=["a0", "c1"])
    assert found.wins.tolist() == [1, 2]
    assert found.anchors.tolist() == [3, 4]
    assert found.golden_score.tolist() == [1 / 3, 0.5]
    assert found.mean_gain.tolist() == [(-1 / 8 + 1 / 1 - 3 / 2) / 3, (13 / 4 - 1 / 8 + 1 / 1 - 3 / 2) / 4]


def test_the_cell_of_a_candidate_that_is_the_anchor_counts_where_the_profile_requires_it():
    cells = [[9.0, -9.0, -1.0, -9.0]]
    found = scored(cells, ids=["a0"], keep_own_cell=True)
    assert (found.wins.tolist(), found.anchors.tolist(), found.golden_score.tolist()) == ([2], [4], [0.5])
    assert found.mean_gain.tolist() == [(13 / 4 - 1 / 8 + 1 / 1 - 3 / 2) / 4]


def test_a_candidate_that_is_the_only_anchor_has_no_score():
    found = scored([[9.0]], ids=["a0"], zero_shot=[-4.0], tokens=[4], anchors=["a0"])
    assert (found.wins.tolist(), found.anchors.tolist()) == ([0], [0])
    np.testing.assert_array_equal(found.golden_score, [NAN])


def test_an_unscorable_candidate_has_no_eligible_anchors():
    ids, anchors = pa.array(["c0", "c1", "a0"]), ["a0", "a1"]
    eligible = eligible_cells(ids, anchors, keep_own_cell=False, unscorable={"c1", "of another pool"})
    assert eligible.tolist() == [[True, True], [False, False], [False, True]]


def test_an_anchor_without_response_is_a_loss_for_all_and_no_part_of_the_gain():
    found = scored([[-3.0, 0.0, -1.0, 0.0]], zero_shot=[-4.0, 0.0, -2.0, 0.0], tokens=[4, 0, 2, 0])
    assert (found.wins.tolist(), found.anchors.tolist(), found.golden_score.tolist()) == ([2], [4], [0.5])
    assert found.mean_gain.tolist() == [(1 / 4 + 1 / 2) / 2]


def test_an_anchor_that_occurs_twice_counts_twice():
    twice = ["a0", "a1", "a0"]
    cells = [[-3.0, -9.0, -3.0]]
    found = scored(cells, zero_shot=[-4.0, -8.0, -4.0], tokens=[4, 8, 4], anchors=twice)
    assert (found.wins.tolist(), found.anchors.tolist(), found.golden_score.tolist()) == ([2], [3], [2 / 3])
    assert found.mean_gain.tolist() == [(1 / 4 - 1 / 8 + 1 / 4) / 3]
    own = scored(cells, zero_shot=[-4.0, -8.0, -4.0], tokens=[4, 8, 4], anchors=twice, ids=["a0"])
    assert (own.wins.tolist(), own.anchors.tolist()) == ([0], [1])


def test_a_candidate_with_missing_cells_has_an_interval_and_no_score_or_gain():
    found = scored(
        [
            [-3.0, NAN, -1.0, NAN],  # two wins, two to come
            [NAN, NAN, NAN, NAN],
            [-9.0, -9.0, NAN, -9.0],  # lost, but for one
            [-9.0, -9.0, -9.0, -9.0],
        ]
    )
    assert found.wins.tolist() == [2, 0, 0, 0]
    assert found.cells.tolist() == [2, 0, 3, 4]
    assert found.anchors.tolist() == [4, 4, 4, 4]
    assert found.bounds.low.tolist() == [0.5, 0.0, 0.0, 0.0]
    assert found.bounds.high.tolist() == [1.0, 1.0, 0.25, 0.0]
    np.testing.assert_array_equal(found.golden_score, [NAN, NAN, NAN, 0.0])
    np.testing.assert_array_equal(found.mean_gain, [NAN, NAN, NAN, (-5 / 4 - 1 / 8 - 7 / 1 - 3 / 2) / 4])


def test_a_missing_cell_that_does_not_count_leaves_the_score_known():
    found = scored([[NAN, -9.0, -1.0, -9.0]], ids=["a0"])
    assert (found.cells.tolist(), found.anchors.tolist(), found.golden_score.tolist()) == ([3], [3], [1 / 3])


def test_candidates_are_eligible_on_all_anchors_but_themselves():
    ids, anchors = pa.array(["b", "a", "c"]), ["a", "x", "a", "c"]
    assert eligible_cells(ids, anchors, keep_own_cell=False).tolist() == [
        [True, True, True, True],
        [False, True, False, True],
        [True, True, True, False],
    ]
    assert eligible_cells(ids, anchors, keep_own_cell=True).all()
    assert eligible_cells(pa.array([], pa.string()), anchors, keep_own_cell=False).shape == (0, 4)


# Stored


def rows_of(tables: list[ScoreTable]) -> list[tuple[object, ...]]:
    names = [item.name for item in fields(ScoreTable) if item.name != "candidate_ids"]
    return [
        (key, *(repr(getattr(table, name)[place]) for name in names))
        for table in tables
        for place, key in enumerate(table.candidate_ids.to_pylist())
    ]


def test_a_table_is_read_as_it_was_written(tmp_path: Path):
    store = Store(str(tmp_path))
    parts = [scored([[-3.0, NAN, -1.0, NAN], [-3.0] * 4]), scored([[-9.0] * 4], ids=["a0"]), scored([[0.0] * 4])]
    write_score_table(store, "first", parts)
    found = list(read_score_table(store, "first"))
    assert rows_of(found) == rows_of(parts)
    assert {table.wins.dtype for table in found} == {np.dtype(np.int32)}


def test_a_large_table_comes_in_parts(tmp_path: Path):
    store = Store(str(tmp_path))
    shard = scored([[-3.0, NAN, -1.0, NAN]] * 512)
    write_score_table(store, "first", [shard] * 300)
    assert [len(table) for table in read_score_table(store, "first")] == [65_536, 65_536, 300 * 512 - 2 * 65_536]


def test_a_table_without_a_column_is_refused(tmp_path: Path):
    store = Store(str(tmp_path))
    write_score_table(store, "first", [scored([[-3.0] * 4])])
    table = pq.read_table(tmp_path / golden_path("first"))
    store.write(golden_path("first"), table_bytes({name: table[name] for name in ("candidate_id", "wins")}))
    with pytest.raises(DamagedTable, match="is damaged .*it has no column anchors, candidate_row, cells"):
        list(read_score_table(store, "first"))


SUMS = st.floats(-1000, 0, width=32)
CELLS = st.just(NAN) | SUMS


@st.composite
def tables(draw):
    candidates, anchors = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    return {
        "cells": draw(arrays(np.float32, (candidates, anchors), elements=CELLS)),
        "zero_shot": draw(arrays(np.float32, anchors, elements=SUMS)),
        "tokens": draw(arrays(np.int32, anchors, elements=st.integers(1, 50))),
        "anchors": draw(st.lists(st.sampled_from(["c0", "c1", "x", "y"]), min_size=anchors, max_size=anchors)),
        "keep_own_cell": draw(st.booleans()),
    }


@given(tables())
def test_bounds_lie_between_0_and_1_and_agree_with_counting_one_by_one(given_table):
    found = scored(**given_table)
    low, high, score = found.bounds.low, found.bounds.high, found.golden_score
    assert ((low >= 0) & (low <= high) & (high <= 1)).all()
    for row, key in enumerate(found.candidate_ids.to_pylist()):
        pairs = [
            (cell, base)
            for cell, base, anchor in zip(
                given_table["cells"][row], given_table["zero_shot"], given_table["anchors"], strict=True
            )
            if given_table["keep_own_cell"] or anchor != key
        ]
        met = [(cell, base) for cell, base in pairs if not np.isnan(cell)]
        assert found.anchors[row] == len(pairs)
        assert found.cells[row] == len(met)
        assert found.wins[row] == sum(cell > base for cell, base in met)
        complete = len(met) == len(pairs)
        assert np.isnan(found.mean_gain[row]) == (not complete)
        assert np.isnan(score[row]) == (not complete or not pairs)
        assert np.isnan(score[row]) or low[row] == score[row] == high[row]


@given(tables(), SUMS, st.data())
def test_a_cell_that_comes_in_narrows_its_candidates_interval(given_table, value, data):
    before = scored(**given_table)
    cells = given_table["cells"].copy()
    row, column = (data.draw(st.integers(0, size - 1)) for size in cells.shape)
    if np.isnan(cells[row, column]):
        cells[row, column] = value
    after = scored(**{**given_table, "cells": cells})
    assert (after.bounds.low >= before.bounds.low).all()
    assert (after.bounds.high <= before.bounds.high).all()


@given(tables(), st.data())
def test_a_cell_that_rises_lowers_no_wins_and_no_gain(given_table, data):
    before = scored(**given_table)
    cells = given_table["cells"].copy()
    row, column = (data.draw(st.integers(0, size - 1)) for size in cells.shape)
    cells[row, column] += np.float32(data.draw(st.floats(0, 500, width=32)))
    after = scored(**{**given_table, "cells": cells})
    assert after.wins[row] >= before.wins[row]
    assert np.isnan(before.mean_gain[row]) or after.mean_gain[row] >= before.mean_gain[row] - 1e-9
    others = np.arange(len(cells)) != row
    assert after.wins[others].tolist() == before.wins[others].tolist()
    np.testing.assert_array_equal(after.mean_gain[others], before.mean_gain[others])
