"""A race ends at exactly the answer of the full table, whatever is computed in which order."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuggets.racing.next_round import (
    CellsToCompute,
    ShardGains,
    cells_per_candidate,
    likeliest_losses,
    losses_needed,
    next_round,
    sampled_scores,
    whole_table,
)
from nuggets.racing.sample import SAMPLE, GainSample
from nuggets.scores.bounds import score_bounds, undecided
from nuggets.scores.cuts import Cut, Threshold, TopFraction, TopK, kept_count
from nuggets.scores.golden import ScoreTable, score_table
from nuggets.scores.ranking import rank_keys
from nuggets.scores.selection import count_scores, find_boundary

NAN = float("nan")


@dataclass(frozen=True)
class Pool:
    """Every cell of a pool, which of them count, and which columns are the same anchor; `shards` are their sizes."""

    gains: NDArray[np.float32]
    eligible: NDArray[np.bool_]
    same_anchor: tuple[int, ...]  # per column the first one of its anchor
    shards: tuple[int, ...]

    @property
    def ids(self) -> list[str]:
        return [f"c{place:02d}" for place in range(len(self.gains))]

    def gains_of_shards(self, known: NDArray[np.bool_], busy: frozenset[int] = frozenset()) -> Iterator[ShardGains]:
        start = 0
        for index, size in enumerate(self.shards):
            here = slice(start, start + size)
            start += size
            gains = np.where(known[here], self.gains[here], np.float32(NAN))
            yield ShardGains(index, pa.array(self.ids[here]), gains, self.eligible[here], free=index not in busy)

    def reveal(self, known: NDArray[np.bool_], choice: CellsToCompute) -> None:
        start = sum(self.shards[: choice.shard.index])
        here = known[start : start + len(choice.cells)]
        for column, first in enumerate(self.same_anchor):
            same = [place for place, other in enumerate(self.same_anchor) if other == first]
            here[:, same] |= choice.cells[:, column : column + 1]

    def table(self, known: NDArray[np.bool_]) -> ScoreTable:
        anchors = self.gains.shape[1]
        return score_table(
            np.where(known, self.gains, np.float32(NAN)),
            np.zeros(anchors, dtype=np.float32),
            np.ones(anchors, dtype=np.int32),
            candidate_ids=pa.array(self.ids),
            candidate_rows=np.arange(len(self.gains)),
            shard=0,
            eligible=self.eligible,
        )


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    candidates, anchors = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    size = candidates * anchors
    values = draw(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 2.0, 1e-45]), min_size=size, max_size=size))
    gains = np.array(values, dtype=np.float32).reshape(candidates, anchors)
    same = [draw(st.sampled_from([column, *range(column)])) for column in range(anchors)]
    same = [same[first] if same[first] == first else column for column, first in enumerate(same)]
    gains = gains[:, same]
    eligible = np.ones(gains.shape, dtype=bool)
    for column, first in enumerate(same):
        if first == column and draw(st.booleans()):
            eligible[draw(st.integers(0, candidates - 1)), [other == column for other in same]] = False
    cuts = sorted(draw(st.sets(st.integers(1, candidates - 1), max_size=3))) if candidates > 1 else []
    shards = np.diff([0, *cuts, candidates]).tolist()
    return Pool(gains, eligible, tuple(same), tuple(shards))


SHARES = st.integers(1, 8).flatmap(lambda below: st.integers(0, below).map(lambda above: above / below)) | st.floats(
    0, 1
)
CUTS: st.SearchStrategy[Cut] = st.one_of(
    SHARES.map(Threshold), st.integers(1, 14).map(TopK), SHARES.map(TopFraction)
)  # fmt: skip
MIN_CELLS = st.just(4) | st.integers(0, 9)
RANDOM = st.randoms(use_true_random=False)


def nothing(pool: Pool) -> NDArray[np.bool_]:
    return np.zeros(pool.gains.shape, dtype=bool)


def something(pool: Pool, random: random.Random, share: float) -> NDArray[np.bool_]:
    """Cells that an earlier run left, own cells among them; an anchor that occurs twice is known twice."""
    drawn = np.array([[random.random() < share for _ in row] for row in pool.gains.tolist()], dtype=bool)
    return drawn.reshape(pool.gains.shape)[:, list(pool.same_anchor)]


def run_race(
    pool: Pool, known: NDArray[np.bool_], cut: Cut, random: random.Random, *, min_cells: int = 4, late: float = 0.0
) -> int:
    """Race to the end, filling `known`; returns how many cells were asked for.

    With probability `late` a shard's work is not there when the next round is planned; the shard is busy then.
    """
    tokens = np.array([random.choice([1.0, 1.0, 30.0, 400.0]) for _ in range(pool.gains.shape[1])])
    waiting: dict[int, CellsToCompute] = {}
    asked = 0
    while True:
        busy = frozenset(waiting)
        parts = lambda: pool.gains_of_shards(known, busy)  # noqa: B023, E731
        found = next_round(parts, cut, tokens, min_cells=min_cells, round_number=random.randrange(9))
        choices = list(found.choices)
        gains = np.where(known, pool.gains, np.float32(NAN))
        is_open = undecided(score_bounds(gains, pool.eligible), cut)
        assert (found.known, found.undecided) == (known[pool.eligible.any(axis=1)].sum(), is_open.sum())
        free = np.repeat([shard not in busy for shard in range(len(pool.shards))], pool.shards)
        assert bool(choices) == bool((is_open & free).any())
        for choice in choices:
            assert choice.shard.free and choice.cells.any()
            assert not (choice.cells & ~choice.shard.eligible).any()
            assert not (choice.cells & ~np.isnan(choice.shard.gains)).any()
            start = sum(pool.shards[: choice.shard.index])
            assert is_open[start : start + len(choice.cells)][choice.cells.any(axis=1)].all()
            asked += int(choice.cells.sum())
            waiting[choice.shard.index] = choice
        if not waiting:
            return asked
        done = [shard for shard in waiting if random.random() >= late] or [random.choice(sorted(waiting))]
        for shard in done:
            pool.reveal(known, waiting.pop(shard))


def answer(table: ScoreTable, cut: Cut) -> list[str]:
    """What the product keeps, best first."""
    boundary, count = find_boundary(lambda: [table], count_scores([table]), cut)
    keys = rank_keys(table)
    kept = np.flatnonzero(boundary.keeps(keys))
    assert len(kept) == count
    return [table.candidate_ids[int(place)].as_py() for place in kept[np.argsort(keys[kept])]]


def answer_of_full_table(pool: Pool, cut: Cut) -> list[str]:
    """The definition: by golden score, then mean gain, then id."""
    rows = []
    for key, gains, eligible in zip(pool.ids, pool.gains.astype(float), pool.eligible, strict=True):
        count = max(1, int(eligible.sum()))
        if eligible.any():  # a candidate without eligible anchors has no score
            rows.append((-((gains[eligible] > 0).sum() / count), -(np.where(eligible, gains, 0).sum() / count), key))
    rows.sort()
    if isinstance(cut, Threshold):
        return [key for score, _, key in rows if -score > cut.value]
    return [key for _, _, key in rows[: kept_count(cut, len(pool.gains))]]


def check_answer(pool: Pool, known: NDArray[np.bool_], cut: Cut) -> None:
    found = pool.table(known)
    expected = answer_of_full_table(pool, cut)
    assert answer(found, cut) == expected
    bounds = found.bounds
    is_kept = np.isin(pool.ids, expected)
    assert bounds.complete[is_kept].all()
    is_open = ~bounds.complete
    if is_open.any() and isinstance(cut, Threshold):
        assert bounds.high[is_open].max() <= cut.value
    elif is_open.any() and expected:
        assert bounds.high[is_open].max() < bounds.low[is_kept].min()


@given(pools(), CUTS, MIN_CELLS, RANDOM, st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.0, 0.2, 0.9]))
def test_a_race_keeps_what_the_full_table_keeps_in_the_same_order(pool, cut, min_cells, random, share, late):
    known = something(pool, random, share)
    run_race(pool, known, cut, random, min_cells=min_cells, late=late)
    check_answer(pool, known, cut)


@st.composite
def strict_and_loose(draw: st.DrawFn) -> tuple[Cut, Cut]:
    few, many = sorted([draw(st.integers(1, 14)), draw(st.integers(1, 14))])
    low, high = sorted([draw(SHARES), draw(SHARES)])
    pairs: list[tuple[Cut, Cut]] = [
        (TopK(few), TopK(many)), (TopFraction(low), TopFraction(high)), (Threshold(high), Threshold(low))
    ]  # fmt: skip
    return draw(st.sampled_from(pairs))


@given(pools(), strict_and_loose(), MIN_CELLS, RANDOM)
def test_a_looser_cut_continues_and_a_stricter_one_requests_no_cell(pool, cuts, min_cells, random):
    strict, loose = cuts
    known = nothing(pool)
    run_race(pool, known, strict, random, min_cells=min_cells)
    check_answer(pool, known, strict)
    run_race(pool, known, loose, random, min_cells=min_cells)
    check_answer(pool, known, loose)
    assert run_race(pool, known, strict, random, min_cells=min_cells) == 0
    check_answer(pool, known, strict)


@given(pools(), RANDOM, st.sampled_from([0.0, 0.5, 1.0]))
def test_without_a_cut_everything_that_is_missing_is_computed(pool, random, share):
    known = something(pool, random, share)
    found = whole_table(lambda: pool.gains_of_shards(known))
    eligible = pool.eligible.any(axis=1)
    missing = ~known & eligible[:, None]
    assert (found.known, found.undecided, found.requested) == (
        known[eligible].sum(),
        missing.any(axis=1).sum(),
        missing.sum(),
    )
    for choice in list(found.choices):
        assert choice.cells.any()
        pool.reveal(known, choice)
    assert known[eligible].all()
    assert list(whole_table(lambda: pool.gains_of_shards(known)).choices) == []


def test_without_a_cut_busy_shards_get_no_work():
    pool = Pool(np.ones((4, 2), np.float32), np.ones((4, 2), bool), (0, 1), (1, 2, 1))
    choices = whole_table(lambda: pool.gains_of_shards(nothing(pool), frozenset([1]))).choices
    assert [choice.shard.index for choice in choices] == [0, 2]


@pytest.mark.parametrize("cut", [Threshold(0.5), TopK(1), TopFraction(0.5)])
def test_an_empty_pool_asks_for_nothing(cut: Cut):
    found = next_round(lambda: [], cut, np.ones(3), min_cells=4, round_number=0)
    assert (found.known, found.undecided, list(found.choices)) == (0, 0, [])


def made_up(candidates: int, anchors: int) -> Pool:
    rng = np.random.default_rng(0)
    skill, ease = rng.beta(4, 4, candidates), rng.beta(2, 2, anchors)
    won = rng.random((candidates, anchors)) < skill[:, None] * ease
    gains = np.where(won, 1, -1) * rng.gamma(2, 2, (candidates, anchors))
    shards = [50] * (candidates // 50)
    return Pool(gains.astype(np.float32), np.ones(gains.shape, bool), tuple(range(anchors)), tuple(shards))


@pytest.mark.parametrize(("cut", "share"), [(TopFraction(0.05), 0.85), (Threshold(0.5), 0.75), (TopK(1), 0.85)])
def test_a_race_saves_cells(cut: Cut, share: float):
    pool = made_up(300, 60)
    known = nothing(pool)
    asked = run_race(pool, known, cut, random.Random(0))
    check_answer(pool, known, cut)
    assert asked == known.sum() < share * known.size


def test_the_same_round_of_the_same_pool_is_always_the_same():
    pool = made_up(100, 20)
    known = something(pool, random.Random(0), 0.3)

    def cells() -> list[list[list[bool]]]:
        found = next_round(lambda: pool.gains_of_shards(known), TopK(5), np.ones(20), min_cells=4, round_number=3)
        return [choice.cells.tolist() for choice in found.choices]

    assert cells() == cells()


def test_a_pilot_begins_alone():
    pool = made_up(300, 60)
    found = next_round(lambda: pool.gains_of_shards(nothing(pool)), TopK(5), np.ones(60), min_cells=4, round_number=0)
    (choice,) = found.choices
    assert (choice.shard.index, choice.cells.sum(axis=1).tolist()) == (0, [25] * 8 + [0] * 42)
    assert (found.known, found.undecided) == (0, 300)


def test_the_pilot_consists_of_candidates_that_can_be_scored():
    pool = made_up(300, 60)
    pool.eligible[:60] = False
    pool.eligible[61::2] = False
    found = next_round(lambda: pool.gains_of_shards(nothing(pool)), TopK(5), np.ones(60), min_cells=4, round_number=0)
    (choice,) = found.choices
    asked = choice.cells.sum(axis=1)
    assert (choice.shard.index, np.flatnonzero(asked).tolist()) == (1, list(range(10, 26, 2)))
    assert set(asked[asked > 0].tolist()) == {25}


def test_busy_shards_count_with_what_they_have_shown():
    pool = replace(made_up(100, 20), gains=np.ones((100, 20), np.float32))
    known = nothing(pool)
    known[:50] = True  # all won: no other candidate can be better, and one with a loss is worse
    parts = lambda: pool.gains_of_shards(known, frozenset([0]))  # noqa: E731
    assert next_round(parts, Threshold(1.0), np.ones(20), min_cells=4, round_number=0).undecided == 0
    found = next_round(parts, TopK(5), np.ones(20), min_cells=4, round_number=0)
    assert found.undecided == 50
    assert [choice.shard.index for choice in found.choices] == [1]


def test_how_often_a_round_reads_the_gains():
    pool, passes = made_up(100, 20), []

    def passes_of(known: NDArray[np.bool_], cut: Cut) -> int:
        def gains() -> Iterator[ShardGains]:
            passes.append(cut)
            return pool.gains_of_shards(known)

        passes.clear()
        list(next_round(gains, cut, np.ones(20), min_cells=4, round_number=0).choices)
        return len(passes)

    some = something(pool, random.Random(0), 0.3)
    assert [passes_of(some, Threshold(0.5)), passes_of(nothing(pool), TopK(5)), passes_of(some, TopK(5))] == [2, 2, 3]


@given(st.lists(st.integers(0, 3000), max_size=4))
def test_the_sample_is_that_of_drawing_one_row_after_another(sizes):
    rng, total, kept = np.random.default_rng(1), sum(sizes), list[int]()
    for row in range(total):
        if len(kept) < SAMPLE:
            kept.append(row)
        elif (place := int(rng.integers(row + 1))) < SAMPLE:
            kept[place] = row
    sample = GainSample(np.random.default_rng(1), 1)
    rows = np.arange(total, dtype=np.float32).reshape(-1, 1)
    for shard in np.split(rows, np.cumsum(sizes, dtype=int)[:-1]):
        assert sample.add(np.concatenate([shard, np.full((2, 1), NAN, dtype=np.float32)])) == len(shard)
    assert sample.rows().ravel().tolist() == kept


# The steps of a round


@given(st.integers(1, 200), st.data())
def test_as_many_losses_are_needed_as_bring_the_bound_below_the_aim_or_one_more(anchors, data):
    hits = data.draw(st.integers(0, anchors))
    aim = data.draw(SHARES | st.integers(0, anchors).map(lambda wins: wins / anchors))
    found = int(losses_needed(np.array([hits / anchors]), np.array([anchors]), aim)[0])
    fewest = next(number for number in range(hits + 2) if (hits - number) / anchors < aim or number > hits)
    assert fewest <= found <= fewest + 1
    if hits / anchors < aim:
        assert found == 0


@pytest.mark.parametrize(
    ("high", "anchors", "aim", "needed"),
    [(1.0, 10, 0.7, 4), (0.6, 10, 0.3, 4), (0.7, 10, 0.7, 1), (0.6, 10, 0.7, 0), (1.0, 100, 0.6, 41), (0.0, 3, 0.0, 1)],
)
def test_losses_needed_by_hand(high: float, anchors: int, aim: float, needed: int):
    assert losses_needed(np.array([high]), np.array([anchors]), aim).tolist() == [needed]


def test_a_candidate_gets_the_cells_it_needs_within_minimum_and_missing():
    needed, missing = np.array([0, 1, 5, 20, 40]), np.array([9, 9, 9, 99, 7], dtype=np.int32)
    assert cells_per_candidate(needed, missing, min_cells=4).tolist() == [0, 4, 5, 20, 7]
    assert cells_per_candidate(needed, missing, min_cells=1).tolist() == [0, 1, 5, 20, 7]


def test_the_likeliest_losses_per_token_are_chosen():
    lost = np.array([[0.9, 0.8, NAN, 0.2], [0.5, 0.5, 0.5, 0.5], [NAN, NAN, NAN, 0.1], [0.0, 0.0, 0.0, 0.0]])
    tokens = np.array([3.0, 2.0, 1.0, 1.0])
    assert likeliest_losses(lost, tokens, np.array([2, 2, 2, 0])).tolist() == [
        [True, True, False, False],
        [False, False, True, True],
        [False, False, False, True],
        [False, False, False, False],
    ]


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_as_many_cells_are_chosen_as_asked_for_and_none_that_is_known(candidates, anchors, data):
    shape = (candidates, anchors)
    some = data.draw(
        st.lists(
            st.sampled_from([NAN, 0.0, 0.3, 0.3, 1.0]), min_size=candidates * anchors, max_size=candidates * anchors
        )
    )
    lost = np.array(some).reshape(shape)
    sizes = np.array([data.draw(st.integers(0, anchors)) for _ in range(candidates)])
    cells = likeliest_losses(lost, np.linspace(1, 9, anchors), sizes)
    assert cells.sum(axis=1).tolist() == np.minimum(sizes, (~np.isnan(lost)).sum(axis=1)).tolist()
    assert not (cells & np.isnan(lost)).any()


def test_plausible_scores_by_hand():
    lost = np.array([[0.5, 0.5, NAN, NAN], [NAN] * 4, [0.0, 0.0, 0.0, 1.0], [NAN] * 4])
    low, anchors = np.array([0.25, 0.75, 0.0, 0.0]), np.array([4, 4, 4, 0], dtype=np.int32)
    found = sampled_scores(low, anchors, lost, np.array([2.0, 9.0, 9.0, 9.0]))
    np.testing.assert_allclose(found, [0.25 + (1 + 2 * 0.5**0.5) / 4, 0.75, 0.75, 0.0])
