"""Golden scores, computed by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuggets.golden import GoldenTable, golden_table

ANCHORS = ["a0", "a1", "a2", "a3"]
ZERO_SHOT = [-4.0, -8.0, -2.0, -6.0]
TOKENS = [4, 8, 1, 2]


def judged(
    cells: list[list[float]],
    *,
    zero_shot: list[float] = ZERO_SHOT,
    tokens: list[int] = TOKENS,
    ids: list[str] | None = None,
    anchors: list[str] = ANCHORS,
    keep_own_cell: bool = False,
) -> GoldenTable:
    ids = ids or [f"c{row}" for row in range(len(cells))]
    return golden_table(
        np.array(cells, dtype=np.float32),
        np.array(zero_shot, dtype=np.float32),
        np.array(tokens, dtype=np.int32),
        candidate_ids=ids,
        candidate_rows=[10 * row for row in range(len(ids))],
        anchor_ids=anchors,
        keep_own_cell=keep_own_cell,
    )


def test_the_score_is_the_share_of_anchors_whose_sum_strictly_rises():
    found = judged(
        [
            [-3.0, -7.0, -1.0, -5.0],  # above everywhere
            [-4.0, -8.0, -2.0, -6.0],  # ties everywhere
            [-3.0, -9.0, -2.0, -5.5],  # above, below, tie, above
            [-9.0, -9.0, -9.0, -9.0],  # below everywhere
        ]
    )
    assert found.candidate_ids == ("c0", "c1", "c2", "c3")
    assert found.candidate_rows.tolist() == [0, 10, 20, 30]
    assert found.wins.tolist() == [4, 0, 2, 0]
    assert found.anchors.tolist() == [4, 4, 4, 4]
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
    found = judged([[above], [-4.0], [below]], zero_shot=[-4.0], tokens=[4], anchors=["a0"])
    assert found.wins.tolist() == [1, 0, 0]


def test_a_candidate_is_not_judged_on_itself():
    cells = [[9.0, -9.0, -1.0, -9.0], [9.0, -9.0, -1.0, -9.0]]
    found = judged(cells, ids=["a0", "c1"])
    assert found.wins.tolist() == [1, 2]
    assert found.anchors.tolist() == [3, 4]
    assert found.golden_score.tolist() == [1 / 3, 0.5]
    assert found.mean_gain.tolist() == [(-1 / 8 + 1 / 1 - 3 / 2) / 3, (13 / 4 - 1 / 8 + 1 / 1 - 3 / 2) / 4]


def test_a_candidate_is_judged_on_itself_where_the_profile_asks_for_it():
    cells = [[9.0, -9.0, -1.0, -9.0]]
    found = judged(cells, ids=["a0"], keep_own_cell=True)
    assert (found.wins.tolist(), found.anchors.tolist(), found.golden_score.tolist()) == ([2], [4], [0.5])
    assert found.mean_gain.tolist() == [(13 / 4 - 1 / 8 + 1 / 1 - 3 / 2) / 4]


def test_a_candidate_that_is_the_only_anchor_has_score_0_and_no_gain():
    found = judged([[9.0]], ids=["a0"], zero_shot=[-4.0], tokens=[4], anchors=["a0"])
    assert (found.wins.tolist(), found.anchors.tolist()) == ([0], [0])
    assert (found.golden_score.tolist(), found.mean_gain.tolist()) == ([0.0], [0.0])


def test_an_anchor_without_response_is_a_loss_for_everybody_and_no_part_of_the_gain():
    found = judged([[-3.0, 0.0, -1.0, 0.0]], zero_shot=[-4.0, 0.0, -2.0, 0.0], tokens=[4, 0, 2, 0])
    assert (found.wins.tolist(), found.anchors.tolist(), found.golden_score.tolist()) == ([2], [4], [0.5])
    assert found.mean_gain.tolist() == [(1 / 4 + 1 / 2) / 2]


def test_an_anchor_that_stands_twice_counts_twice():
    twice = ["a0", "a1", "a0"]
    cells = [[-3.0, -9.0, -3.0]]
    found = judged(cells, zero_shot=[-4.0, -8.0, -4.0], tokens=[4, 8, 4], anchors=twice)
    assert (found.wins.tolist(), found.anchors.tolist(), found.golden_score.tolist()) == ([2], [3], [2 / 3])
    assert found.mean_gain.tolist() == [(1 / 4 - 1 / 8 + 1 / 4) / 3]
    own = judged(cells, zero_shot=[-4.0, -8.0, -4.0], tokens=[4, 8, 4], anchors=twice, ids=["a0"])
    assert (own.wins.tolist(), own.anchors.tolist()) == ([0], [1])


def test_missing_cells_are_refused_with_their_number():
    nan = float("nan")
    with pytest.raises(ValueError) as refused:
        judged([[-3.0, nan, -1.0, nan], [-3.0, -3.0, -3.0, -3.0]])
    assert str(refused.value) == "2 of 8 cells are missing: a golden score needs all of them"


SUMS = st.floats(-1000, 0, width=32)


@st.composite
def tables(draw):
    candidates, anchors = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    return {
        "cells": draw(arrays(np.float32, (candidates, anchors), elements=SUMS)),
        "zero_shot": draw(arrays(np.float32, anchors, elements=SUMS)),
        "tokens": draw(arrays(np.int32, anchors, elements=st.integers(1, 50))),
        "anchors": draw(st.lists(st.sampled_from(["c0", "c1", "x", "y"]), min_size=anchors, max_size=anchors)),
        "keep_own_cell": draw(st.booleans()),
    }


@given(tables())
@settings(deadline=None)
def test_a_score_lies_between_0_and_1_and_agrees_with_counting_one_by_one(given_table):
    found = judged(**given_table)
    assert ((found.golden_score >= 0) & (found.golden_score <= 1)).all()
    for row, key in enumerate(found.candidate_ids):
        pairs = [
            (cell, base)
            for cell, base, anchor in zip(
                given_table["cells"][row], given_table["zero_shot"], given_table["anchors"], strict=True
            )
            if given_table["keep_own_cell"] or anchor != key
        ]
        assert found.anchors[row] == len(pairs)
        assert found.wins[row] == sum(cell > base for cell, base in pairs)


@given(tables(), st.data())
@settings(deadline=None)
def test_a_cell_that_rises_lowers_neither_its_candidates_score_nor_its_gain_nor_touches_others(given_table, data):
    before = judged(**given_table)
    cells = given_table["cells"].copy()
    row, column = (data.draw(st.integers(0, size - 1)) for size in cells.shape)
    cells[row, column] += np.float32(data.draw(st.floats(0, 500, width=32)))
    after = judged(**{**given_table, "cells": cells})
    assert after.golden_score[row] >= before.golden_score[row]
    assert after.mean_gain[row] >= before.mean_gain[row] - 1e-9
    others = np.arange(len(cells)) != row
    assert after.wins[others].tolist() == before.wins[others].tolist()
    assert after.mean_gain[others].tolist() == before.mean_gain[others].tolist()
