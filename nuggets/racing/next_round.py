"""Racing: which cells to compute next, so that a cut is decided with as few cells as possible. Pure.

A round takes the candidates that may still reach the score at which the cutoff will probably end. Each of them gets the
anchors that it will most probably lose, per token, as many as the losses that would rule it out: a candidate that ends
up dropped needs these cells anyway. If the expected cutoff is too high, the race takes one more round; if it is too
low, it computes more cells than necessary. The answer is exact in both cases, because only `scores.bounds` decides
which candidates are out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.racing.gain_model import GainModel, fit_gains, loss_probabilities
from nuggets.racing.sample import GainSample
from nuggets.scores.bounds import ScoreBounds, concatenate_bounds, cutoff, score_bounds, undecided
from nuggets.scores.cuts import Cut, Threshold, kept_count

# The first round takes few candidates, so that the gain model learns the anchors cheaply: this share of the pool, and
# at least this number. Each later round takes more by this factor.
_FIRST_SHARE = 1 / 256
_FIRST_CANDIDATES = 8
_GROWTH = 1.75
_INITIAL_CUTOFF = 0.6  # the expected cutoff before any cell is known; a bad guess costs at most one round


@dataclass(frozen=True, slots=True)
class ShardGains:
    """A shard's candidates with their gains `(candidates, anchors)` in nats, NaN where not computed.

    `eligible` is False where an anchor does not count for a candidate. `free` is False while the shard gets no new
    work, for example because a task is scoring it; its candidates count all the same.
    """

    index: int
    candidate_ids: Any  # a pyarrow array of strings
    gains: NDArray[np.float32]
    eligible: NDArray[np.bool_]
    free: bool = True


PoolGains = Callable[[], Iterable[ShardGains]]  # a pool's shards in order, from the first again at every call


@dataclass(frozen=True, slots=True)
class CellsToCompute:
    """The next cells of a shard: `cells` `(candidates, anchors)` is True where one is to be computed."""

    shard: ShardGains
    cells: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NextCells:
    """How many cells are known, how many candidates are undecided, and which cells to compute next."""

    known: int  # of candidates that have an eligible anchor
    undecided: int
    requested: int  # cells in all choices
    choices: Iterator[CellsToCompute]


def whole_table(pool: PoolGains) -> NextCells:
    """All missing cells, for a run that needs every score."""
    known = incomplete = requested = 0
    for shard in pool():
        missing = _missing(shard)
        known += int((~np.isnan(_scorable(shard))).sum())
        incomplete += int(missing.any(axis=1).sum())
        requested += int(missing.sum()) if shard.free else 0
    choices = (CellsToCompute(shard, _missing(shard)) for shard in pool() if shard.free)
    return NextCells(known, incomplete, requested, (choice for choice in choices if choice.cells.any()))


def next_round(
    pool: PoolGains, cut: Cut, anchor_tokens: NDArray[np.float64], *, min_cells: int, round_number: int
) -> NextCells:
    """The next cells to compute for a cut of the whole pool; no choices once its answer is certain.

    `anchor_tokens` `(anchors,)` is the cost of a cell of each anchor. A candidate that takes part in a round gets at
    least `min_cells` cells, because its demonstration is computed once more in each.
    """
    rng = np.random.default_rng(round_number)
    # 1. Bounds of all scores, and a sample of the known gains.
    sample, shard_bounds, free, known = GainSample(rng, len(anchor_tokens)), list[ScoreBounds](), [], 0
    for shard in pool():
        shard_bounds.append(score_bounds(shard.gains, shard.eligible))
        free.append(np.full(len(shard.gains), shard.free))
        known += sample.add(_scorable(shard))
    bounds = concatenate_bounds(shard_bounds)
    is_undecided = undecided(bounds, cut)
    if not is_undecided.any():
        return NextCells(known, 0, 0, iter(()))
    # 2. The cutoff to expect, by a model of the gains.
    model = fit_gains(sample.rows())
    active = _active_candidates(bounds)
    expected = _expected_cutoff(pool, model, bounds, cut, active=active, rng=rng)
    # 3. The candidates that take part, and how many cells each of them gets.
    can_play = is_undecided & np.concatenate(free)
    plays = can_play & (np.arange(len(can_play)) < active) & (bounds.high >= expected)
    if not plays.any() and can_play.any():  # no free candidate reaches the expected cutoff: take the best of them
        expected = float(bounds.high[can_play].max())
        plays = can_play & (bounds.high >= expected)
    needed = np.where(plays, losses_needed(bounds.high, bounds.anchors, expected), 0)
    counts = cells_per_candidate(needed, bounds.anchors - bounds.cells, min_cells=min_cells)
    return NextCells(
        known, int(is_undecided.sum()), int(counts.sum()), _choices(pool, model, anchor_tokens, counts=counts)
    )


def losses_needed(high: NDArray[np.float64], anchors: NDArray[np.int32], limit: float) -> NDArray[np.int64]:
    """How many more losses bring each upper bound strictly below `limit`; 0 where it is below already."""
    # Bounds are fractions of small integers: without the 1e-9, floor(0.3 * 10) would be 2.
    more = np.floor((high - limit) * anchors + 1e-9).astype(np.int64) + 1
    return np.where(high < limit, 0, np.maximum(more, 1))


def cells_per_candidate(needed: NDArray[np.int64], missing: NDArray[np.int32], *, min_cells: int) -> NDArray[np.int64]:
    """How many cells each candidate gets in a round: the losses it needs, `min_cells` at least, no more than miss."""
    return np.where(needed > 0, np.minimum(np.maximum(needed, min_cells), missing), 0)


def sampled_scores(
    low: NDArray[np.float64], anchors: NDArray[np.int32], lost: NDArray[np.float64], draws: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Final scores drawn from what the model predicts: the expected score, plus `draws` standard deviations.

    `lost` `(candidates, anchors)` holds loss probabilities, NaN where no cell is to be computed.
    """
    open_losses = np.nan_to_num(lost, nan=1.0)
    spread = np.sqrt(((1 - open_losses) * open_losses).sum(axis=1))
    more_wins = (1 - open_losses).sum(axis=1) + draws * spread
    scores: NDArray[np.float64] = low + more_wins / np.maximum(anchors, 1)
    return scores


def likeliest_losses(
    lost: NDArray[np.float64], anchor_tokens: NDArray[np.float64], counts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """The `counts` likeliest losses per token of each candidate `(candidates, anchors)`, none where `lost` is NaN."""
    value = np.nan_to_num(lost / anchor_tokens, nan=-1.0)
    rank = np.empty(value.shape, dtype=np.int64)
    positions = np.broadcast_to(np.arange(value.shape[1]), value.shape)
    np.put_along_axis(rank, np.argsort(-value, axis=1, kind="stable"), positions, axis=1)
    return (rank < counts[:, None]) & ~np.isnan(lost)


def _missing(shard: ShardGains) -> NDArray[np.bool_]:
    """The cells that a full table lacks. A candidate without eligible anchors has no score and needs no cell."""
    missing: NDArray[np.bool_] = np.isnan(shard.gains) & shard.eligible.any(axis=1, keepdims=True)
    return missing


def _scorable(shard: ShardGains) -> NDArray[np.float32]:
    """The gains of a shard's candidates that have an eligible anchor."""
    scorable = shard.eligible.any(axis=1)
    return shard.gains if scorable.all() else shard.gains[scorable]


def _active_candidates(bounds: ScoreBounds) -> int:
    """How many candidates, counted from the first of the pool, take part or have no eligible anchor.

    Ids are hashes, so the first candidates are a random sample of the pool. Candidates without an eligible anchor get
    no cells: if they counted, a pool with many of them would never reach more than the first ones of the others.
    """
    scorable = np.flatnonzero(bounds.anchors > 0)
    begun = int((bounds.cells > 0).sum())
    number = max(_FIRST_CANDIDATES, ceil(len(scorable) * _FIRST_SHARE), ceil(begun * _GROWTH))
    return int(scorable[number - 1]) + 1 if number < len(scorable) else len(bounds.wins)


def _expected_cutoff(
    pool: PoolGains, model: GainModel, bounds: ScoreBounds, cut: Cut, *, active: int, rng: np.random.Generator
) -> float:
    """The score at which the cutoff will probably end. Candidates that can't reach it wait."""
    certain = cutoff(bounds.low, cut)
    if isinstance(cut, Threshold):
        return certain
    if not bounds.cells.any():
        return max(certain, _INITIAL_CUTOFF)
    scores = _scores_of_first(pool, model, bounds.low[:active], rng)
    position = active - max(1, ceil(kept_count(cut, len(bounds.wins)) * active / len(bounds.wins)))
    expected = float(np.partition(scores, position)[position])
    # Candidates with one of the k highest upper bounds need more cells in any case, so it is never above those.
    reachable = float(np.partition(bounds.high[:active], position)[position])
    return max(certain, min(expected, reachable))


def _scores_of_first(
    pool: PoolGains, model: GainModel, low: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Sampled final scores of the first candidates of the pool, as many as there are in `low`."""
    draws = rng.standard_normal(len(low))
    scores: list[NDArray[np.float64]] = []
    start = 0
    for shard in pool():
        stop = min(start + len(shard.gains), len(low))
        if stop == start:
            break
        rows = slice(0, stop - start)
        lost = _open_losses(model, shard.gains[rows], shard.eligible[rows])
        scores.append(sampled_scores(low[start:stop], shard.eligible[rows].sum(axis=1), lost, draws[start:stop]))
        start = stop
    return np.concatenate(scores)


def _open_losses(model: GainModel, gains: NDArray[np.float32], eligible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Loss probabilities of the cells that are still to be computed, NaN elsewhere."""
    lost = loss_probabilities(model, gains)
    lost[~np.isnan(gains) | ~eligible] = np.nan
    return lost


def _choices(
    pool: PoolGains, model: GainModel, anchor_tokens: NDArray[np.float64], *, counts: NDArray[np.int64]
) -> Iterator[CellsToCompute]:
    start = 0
    for shard in pool():
        shard_counts = counts[start : start + len(shard.gains)]
        start += len(shard.gains)
        rows = np.flatnonzero(shard_counts)
        if len(rows):
            lost = _open_losses(model, shard.gains[rows], shard.eligible[rows])
            cells = np.zeros(shard.gains.shape, dtype=bool)
            cells[rows] = likeliest_losses(lost, anchor_tokens, shard_counts[rows])
            yield CellsToCompute(shard, cells)
