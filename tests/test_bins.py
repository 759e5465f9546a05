"""Candidates in bins of golden scores: around the scores that exist, and never on the wrong side of the cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuggets.report.bins import MOST_BINS, ScoreBins, histogram, score_bins
from nuggets.scores.bounds import ScoreBounds
from nuggets.scores.cuts import Cut, Threshold, TopK
from nuggets.scores.selection import ScoreCounts


def counts(*rows: tuple[int, int, int, int]) -> ScoreCounts:
    """Of rows of (candidates, wins, cells, anchors)."""
    count, wins, cells, anchors = np.array(rows, dtype=np.int32).reshape(-1, 4).T
    return ScoreCounts(ScoreBounds(wins, cells - wins, anchors), count.astype(np.int64))


def full_pool(anchors: int, *also: tuple[int, int, int, int]) -> ScoreCounts:
    """Two candidates of each score, and some others."""
    return counts(*((2, wins, anchors, anchors) for wins in range(anchors + 1)), *also)


def kept_above(pool: ScoreCounts, value: float) -> NDArray[np.int64]:
    return np.where(pool.bounds.complete & (pool.bounds.low > value), pool.count, 0)


def at_threshold(pool: ScoreCounts, value: float) -> ScoreBins:
    return score_bins(pool, kept_above(pool, value), Threshold(value))


@pytest.mark.parametrize("anchors", [1, 2, 7, 8, 16, 24])
def test_of_few_anchors_each_score_has_a_bin_around_it(anchors: int):
    bins = at_threshold(full_pool(anchors), 0.5)
    assert bins.lowest.tolist() == bins.highest.tolist() == [wins / anchors for wins in range(anchors + 1)]
    assert bins.total.tolist() == [2] * (anchors + 1)
    np.testing.assert_allclose((bins.edges[1:] + bins.edges[:-1]) / 2, bins.lowest, atol=1e-12)


@pytest.mark.parametrize("anchors", [25, 50, 99, 100, 260, 10**6])
@pytest.mark.parametrize("value", [0.0, 0.29, 0.5, 0.97, 1.0])
def test_of_many_anchors_bins_hold_equally_many_scores_but_for_the_outer_ones(anchors: int, value: float):
    bins = at_threshold(counts((1, 0, anchors, anchors), (1, anchors, anchors, anchors)), value)
    assert 12 <= len(bins.total) <= MOST_BINS
    scores = np.rint((bins.highest - bins.lowest) * anchors).astype(int) + 1
    assert len(set(scores[1:-1].tolist())) == 1 and max(scores[0], scores[-1]) <= scores[1]
    assert scores.sum() == anchors + 1


@pytest.mark.parametrize(
    ("anchors", "value", "place"),
    [
        (16, 0.5, 8.5 / 16),  # the score that is the threshold is dropped
        (16, 0.97, 15.5 / 16),
        (16, 0.0, 0.5 / 16),
        (4, 0.9, 3.5 / 4),
        (4, 1.0, 4.5 / 4),
        (10, 0.3, 3.5 / 10),
        (100, 0.29, 29.5 / 100),
    ],
)
def test_the_cut_is_halfway_between_the_last_score_dropped_and_the_first_kept(anchors, value, place):
    for pool in (full_pool(anchors), counts((3, 0, anchors, anchors))):
        bins = at_threshold(pool, value)
        assert bins.cut == pytest.approx(place)
        assert bins.cut in bins.edges


def test_a_cut_by_rank_is_below_the_lowest_score_kept():
    bins = score_bins(full_pool(8), np.array([0, 0, 0, 0, 0, 2, 2, 2, 2]), TopK(8))
    assert bins.cut == pytest.approx(4.5 / 8)
    assert (bins.kept.tolist(), bins.dropped.tolist()) == ([0] * 5 + [2] * 4, [2] * 5 + [0] * 4)
    assert score_bins(full_pool(8), np.zeros(9, dtype=np.int64), TopK(8)).cut is None
    assert score_bins(counts((3, 0, 8, 8)), np.array([3]), TopK(3)).cut == pytest.approx(-0.5 / 8)


def test_candidates_parted_by_their_mean_gain_share_a_bin_above_the_cut():
    bins = score_bins(counts((5, 3, 8, 8), (4, 5, 8, 8)), np.array([0, 1]), TopK(1))
    assert (bins.cut, bins.kept[5], bins.dropped[5]) == (pytest.approx(4.5 / 8), 1, 3)


def test_a_cut_between_scores_of_different_numbers_of_anchors_moves_an_edge():
    """5/16 is dropped and 5/15 kept: with edges at odd 32nds alone, both would be in one bin."""
    pool = full_pool(16, (1, 5, 15, 15))
    bins = at_threshold(pool, 0.33)
    assert bins.cut == pytest.approx((5 / 16 + 5 / 15) / 2)
    assert (bins.kept[5], bins.dropped[5], bins.kept[6], bins.dropped[6]) == (0, 2, 3, 0)
    assert (bins.lowest[6], bins.highest[6]) == (5 / 15, 6 / 16)


ROWS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=15
)


@given(ROWS, st.floats(0, 1) | st.integers(0, 8).map(lambda eighths: eighths / 8) | st.none(), st.integers(3, 25))
def test_the_cut_parts_bins_whatever_the_pool(rows, value, most):
    pool = counts(*((count, wins, wins + lost, wins + lost + left) for count, wins, lost, left in rows))
    bounds = pool.bounds
    cut: Cut = TopK(1)
    kept = np.zeros(len(rows), dtype=np.int64)
    candidates = bounds.complete & (bounds.anchors > 0)
    if value is not None:
        cut, kept = Threshold(value), np.where(candidates & (bounds.low > value), pool.count, 0)
        pool.count[~bounds.complete & (bounds.high > value)] = 0  # a race would have gone on
    elif candidates.any():
        best = bounds.low[candidates].max()
        kept = np.where(candidates & (bounds.low == best), 1, 0)
        pool.count[~bounds.complete & (bounds.high >= best)] = 0
    bins = score_bins(pool, kept, cut, most=most)

    assert len(bins.total) <= most
    assert (np.diff(bins.edges) > 0).all()
    assert (bins.lowest >= bins.edges[:-1]).all() and (bins.highest <= bins.edges[1:]).all()
    assert bins.kept.sum() == kept.sum()
    assert bins.total.sum() == pool.eligible.candidates
    assert bins.early.sum() == pool.count[~bounds.complete & (bounds.anchors > 0)].sum()
    if bins.cut is not None:
        (edge,) = np.flatnonzero(bins.edges == bins.cut)
        assert not bins.kept[:edge].any()
        assert not bins.early[edge:].any()
        tied = (bounds.low == bounds.low[kept > 0].min()) if kept.any() else np.zeros(len(rows), dtype=bool)
        assert bins.dropped[edge:].sum() == (pool.count - kept)[tied & candidates].sum()

    lines = histogram(bins).splitlines()
    assert all(len(line) <= 60 for line in lines)
    bars = [line.split() for line in lines if line[0].isdigit()]
    assert sum(int(bar[1]) for bar in bars) == pool.eligible.candidates
    for _, number, *marks in bars:
        assert (int(number) > 0) == bool(marks)


def test_bars_are_scaled_to_the_longest_and_the_cut_is_between_them():
    pool = counts((60, 0, 4, 4), (8, 2, 4, 4), (1, 3, 4, 4))
    assert histogram(score_bins(pool, np.array([0, 3, 1]), TopK(4))).splitlines() == [
        "score        examples # kept, . dropped",
        "0.000              60 " + "." * 38,
        "0.250               0",
        "cut " + "-" * 56,
        "0.500               8 ##....",
        "0.750               1 #",
    ]


def test_candidates_dropped_early_have_their_own_mark():
    pool = counts((10, 90, 100, 100), (20, 30, 80, 100))
    assert histogram(score_bins(pool, np.array([10, 0]), TopK(10))).splitlines()[1:4] == [
        "                      : dropped early, at the highest score",
        "0.500-0.540        20 " + ":" * 38,
        "0.550-0.590         0",
    ]


def test_ten_million_candidates_fit_a_line():
    pool = counts((10_000_000, 90, 260, 260))
    lines = histogram(score_bins(pool, np.array([0]), TopK(1))).splitlines()
    assert lines[1].split()[:2] == ["0.338-0.377", "10000000"]
    assert len(lines[1]) == 60


def test_without_scores_bins_are_empty():
    for pool in (counts((3, 0, 0, 0)), counts()):
        bins = score_bins(pool, np.zeros(len(pool.count), dtype=np.int64), TopK(2))
        assert (len(bins.total), bins.total.any()) == (21, False)
        assert histogram(bins) == "score        examples # kept, . dropped"
