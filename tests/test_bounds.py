"""Bounds of scores while cells are missing, and the candidates that a cut leaves undecided."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.scores.bounds import ScoreBounds, concatenate_bounds, cutoff, score_bounds, undecided
from nuggets.scores.cuts import Cut, Threshold, TopFraction, TopK

NAN = float("nan")
ABOVE_1 = float(np.nextafter(1.0, 2.0))

FRACTIONS = st.integers(1, 12).flatmap(lambda below: st.integers(0, below).map(lambda above: above / below))
SHARES = FRACTIONS | st.floats(0, 1)
CUTS: st.SearchStrategy[Cut] = st.one_of(
    SHARES.map(Threshold), st.integers(1, 15).map(TopK), SHARES.map(TopFraction)
)  # fmt: skip
WINS_LOSSES_LEFT = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))
POOLS = st.lists(WINS_LOSSES_LEFT, min_size=1, max_size=12)


def bounds(rows: list[tuple[int, int, int]]) -> ScoreBounds:
    """Of rows of (wins, losses, cells left)."""
    wins, losses, left = np.array(rows, dtype=np.int32).reshape(-1, 3).T
    return ScoreBounds(wins, losses, wins + losses + left)


def test_bounds_by_hand():
    found = bounds([(2, 1, 1), (0, 4, 0), (3, 0, 0), (0, 0, 5), (0, 0, 0)])
    assert found.cells.tolist() == [3, 4, 3, 0, 0]
    assert found.low.tolist() == [0.5, 0.0, 1.0, 0.0, 0.0]
    assert found.high.tolist() == [0.75, 0.0, 1.0, 1.0, 0.0]
    assert found.complete.tolist() == [False, True, True, False, True]


def test_gains_above_0_are_wins_and_ineligible_cells_do_not_count():
    gains = np.array([[0.5, 0.0, -0.0, -2.0, NAN], [NAN] * 5, [1.0, 1e-45, -1e-45, 9.0, -9.0]], dtype=np.float32)
    eligible = np.ones((3, 5), dtype=bool)
    eligible[0, 0] = eligible[1, 1] = eligible[2, 3] = eligible[2, 4] = False
    found = score_bounds(gains, eligible)
    assert found.wins.tolist() == [0, 0, 2]
    assert found.losses.tolist() == [3, 0, 1]
    assert found.anchors.tolist() == [4, 4, 3]


def test_bounds_of_shards_are_concatenated_in_order():
    assert concatenate_bounds([]).anchors.tolist() == []
    found = concatenate_bounds([bounds([(1, 2, 3)]), bounds([]), bounds([(4, 0, 0), (0, 0, 1)])])
    assert (found.wins.tolist(), found.losses.tolist(), found.anchors.tolist()) == ([1, 4, 0], [2, 0, 0], [6, 4, 1])


FOUR = [(2, 0, 2), (1, 3, 0), (3, 1, 0), (0, 2, 2)]  # from 0.5 to 1, 0.25, 0.75, from 0 to 0.5


@pytest.mark.parametrize(
    ("cut", "height", "expected"),
    [
        (Threshold(0.5), float(np.nextafter(0.5, 1)), [True, False, False, False]),
        (Threshold(0.49), float(np.nextafter(0.49, 1)), [True, False, False, True]),
        (Threshold(1.0), ABOVE_1, [False] * 4),
        (Threshold(0.0), float(np.nextafter(0.0, 1)), [True, False, False, True]),
        (TopK(1), 0.75, [True, False, False, False]),
        (TopK(2), 0.5, [True, False, False, True]),
        (TopK(3), 0.25, [True, False, False, True]),
        (TopK(4), 0.0, [True, False, False, True]),
        (TopK(9), 0.0, [True, False, False, True]),
        (TopFraction(0.0), ABOVE_1, [False] * 4),
        (TopFraction(0.25), 0.75, [True, False, False, False]),
        (TopFraction(0.26), 0.5, [True, False, False, True]),
        (TopFraction(1.0), 0.0, [True, False, False, True]),
    ],
)
def test_the_cutoff_and_the_undecided_candidates(cut: Cut, height: float, expected: list[bool]):
    found = bounds(FOUR)
    assert cutoff(found.low, cut) == height
    assert undecided(found, cut).tolist() == expected


@pytest.mark.parametrize("cut", [Threshold(0.0), TopK(1), TopFraction(0.0), TopFraction(1.0)])
def test_an_empty_pool_has_no_undecided_candidate(cut: Cut):
    assert undecided(bounds([]), cut).tolist() == []


@given(POOLS, CUTS, st.randoms(use_true_random=False))
def test_new_cells_only_raise_the_cutoff_and_bring_no_dropped_candidate_back(rows, cut, random):
    before = bounds(rows)
    cutoff_before, open_before = cutoff(before.low, cut), undecided(before, cut)
    while any(left for _, _, left in rows):
        place = random.choice([place for place, row in enumerate(rows) if row[2]])
        wins, losses, left = rows[place]
        won = random.random() < 0.5
        rows[place] = (wins + won, losses + (not won), left - 1)
        after = bounds(rows)
        cutoff_now, open_now = cutoff(after.low, cut), undecided(after, cut)
        assert cutoff_now >= cutoff_before
        assert not (open_now & ~open_before).any()
        cutoff_before, open_before = cutoff_now, open_now
    assert not open_before.any()


@given(POOLS, CUTS)
def test_counted_bounds_are_decided_as_the_candidates_that_they_count(rows, cut):
    levels = sorted(set(rows))
    count = np.array([rows.count(level) for level in levels])
    pool, few = bounds(rows), bounds(levels)
    assert cutoff(few.low, cut, count) == cutoff(pool.low, cut)
    by_level = dict(zip(levels, undecided(few, cut, count).tolist(), strict=True))
    assert [by_level[row] for row in rows] == undecided(pool, cut).tolist()


@given(POOLS, CUTS, st.data())
def test_decided_candidates_stay_kept_or_dropped_whatever_the_missing_cells_are(rows, cut, data):
    found = bounds(rows)
    height, is_open = cutoff(found.low, cut), undecided(found, cut)
    won = np.array([data.draw(st.integers(0, left)) for _, _, left in rows])
    scores = (found.wins + won) / np.maximum(found.anchors, 1)
    final = cutoff(scores, cut)
    assert final >= height
    assert (scores[~is_open & ~found.complete] < final).all()
