"""Racing: which cells to compute next, so that as few as possible are needed for a cut. Pure.

A round gives every candidate that is in play the anchors it will most probably lose per token, as many of them as it
has to lose before it is out, or a share of that: so many it needs anyway if it is to be dropped. In play is who may
still reach the aim, the score at which the bar is expected to end. An aim that turns out too high costs a round, one
that is too low costs cells. Whatever is chosen here, the answer is exact, because `bounds` alone says who is out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.racing.gain_model import GainModel, fit_gains, loss_probabilities
from nuggets.scores.bounds import ScoreBounds, concatenate_bounds, cutoff, score_bounds, undecided
from nuggets.scores.cuts import Cut, Threshold, kept_count

SAMPLE = 2048  # candidates that the gain model is learnt from
_PILOT_SHARE = 256
_FIRST_AIM = 0.6  # where the bar is taken to be while nothing is known; costs one round at most


@dataclass(frozen=True, slots=True)
class RaceSchedule:
    """How boldly a race proceeds.

    `pilot`: how many candidates begin alone, so that anchors are learnt cheaply, or one in 256 of a large pool.
    `growth`: how many times as many take part in the next round. `stride`: share of the losses still needed that a
    visit asks for; `least`: cells that a visit takes at least, because it computes the demonstration once more.
    `optimism`: how far above its expectation the bar is aimed at, in standard deviations of plausible scores.
    """

    pilot: int = 8
    growth: float = 1.75
    stride: float = 1.0
    least: int = 4
    optimism: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """A shard's candidates: gains `(candidates, anchors)` in nats, NaN where not computed, and their eligible cells.

    `free`: whether they can be given work now; those that a task is busy with stay in the count and get none.
    """

    index: int
    candidate_ids: Any  # a pyarrow array of strings
    gains: NDArray[np.float32]
    eligible: NDArray[np.bool_]
    free: bool = True


Parts = Callable[[], Iterable[Part]]  # a pool's shards in its order, as often as asked: one is in memory at a time


@dataclass(frozen=True, slots=True)
class CellsToCompute:
    """What a part has to compute next: `cells` `(candidates, anchors)` is True there."""

    part: Part
    cells: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Race:
    """How a pool stands: cells known, candidates whose cells the cut still needs, and what to compute next."""

    known: int
    undecided: int
    asked: int  # cells that the choices ask for
    choices: Iterator[CellsToCompute]


def whole_table(parts: Parts) -> Race:
    """Everything that is missing, for those who want every score."""
    known = undecided = asked = 0
    for part in parts():
        missing = _missing(part)
        known += missing.size - int(missing.sum())
        undecided += int(missing.any(axis=1).sum())
        asked += int(missing.sum()) if part.free else 0
    choices = (CellsToCompute(part, _missing(part)) for part in parts() if part.free)
    return Race(known, undecided, asked, (choice for choice in choices if choice.cells.any()))


def next_round(parts: Parts, cut: Cut, tokens: NDArray[np.float64], pace: RaceSchedule, *, round_number: int) -> Race:
    """The next cells to compute for a cut of the whole pool; no choices once its answer is certain.

    `tokens` `(anchors,)` is what a cell of each anchor costs.
    """
    rng = np.random.default_rng(round_number)
    bounds_of_parts, free, sample, known = [], [], _Sample(rng, len(tokens)), 0
    for part in parts():
        bounds_of_parts.append(score_bounds(part.gains, part.eligible))
        free.append(np.full(len(part.gains), part.free))
        sample.add(part.gains)
        known += int((~np.isnan(part.gains)).sum())
    bounds = concatenate_bounds(bounds_of_parts)
    is_open = undecided(bounds, cut)
    if not is_open.any():
        return Race(known, 0, 0, iter(()))
    model = fit_gains(sample.rows())
    active = _joined(bounds, pace)
    plausible = _plausible(parts, model, bounds.low[:active], rng)
    aim = _aim(bounds, cut, plausible, pace)
    can_play = is_open & np.concatenate(free)
    high = bounds.high
    in_play = can_play & (np.arange(len(high)) < active) & (high >= aim)
    if not in_play.any() and can_play.any():  # nobody who is free may reach the aim: it comes down to the best of them
        aim = float(high[can_play].max())
        in_play = can_play & (high >= aim)
    needed = np.where(in_play, losses_needed(high, bounds.anchors, aim), 0)
    missing = bounds.anchors - bounds.cells
    sizes = visit_sizes(needed, missing, pace)
    return Race(known, int(is_open.sum()), int(sizes.sum()), _choices(parts, model, tokens, sizes))


def _plausible(
    parts: Parts, model: GainModel, low: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Scores that the first candidates of the pool, as many as there are in `low`, may come to."""
    luck = rng.standard_normal(len(low))
    scores: list[NDArray[np.float64]] = []
    start = 0
    for part in parts():
        size = min(len(part.gains), len(low) - start)
        if size <= 0:
            break
        here = slice(start, start + size)
        some = _first(part, size)
        scores.append(plausible_scores(low[here], some.eligible.sum(axis=1), _lost(model, some), luck[here]))
        start += size
    return np.concatenate(scores)


def plausible_scores(
    low: NDArray[np.float64], anchors: NDArray[np.int32], lost: NDArray[np.float64], luck: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scores that candidates may come to: the expected ones, moved by `luck` standard deviations.

    `lost` `(candidates, anchors)` holds loss probabilities, NaN where nothing is left to be computed.
    """
    left = np.nan_to_num(lost, nan=1.0)
    spread = np.sqrt(((1 - left) * left).sum(axis=1))
    scores: NDArray[np.float64] = low + ((1 - left).sum(axis=1) + luck * spread) / np.maximum(anchors, 1)
    return scores


def losses_needed(high: NDArray[np.float64], anchors: NDArray[np.int32], aim: float) -> NDArray[np.int64]:
    """How many more losses bring each upper bound strictly below the aim; 0 where it is there already."""
    # Bounds are fractions of small whole numbers: the nudge makes 0.3 * 10 three again.
    more = np.floor((high - aim) * anchors + 1e-9).astype(np.int64) + 1
    return np.where(high < aim, 0, np.maximum(more, 1))


def visit_sizes(needed: NDArray[np.int64], missing: NDArray[np.int32], pace: RaceSchedule) -> NDArray[np.int64]:
    """How many cells each candidate gets in this round."""
    wanted = np.maximum(np.ceil(needed * pace.stride).astype(np.int64), pace.least)
    return np.where(needed > 0, np.minimum(wanted, missing), 0)


def chosen_cells(lost: NDArray[np.float64], tokens: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Each candidate's likeliest losses per token, `sizes` of them `(candidates, anchors)`, not where `lost` is NaN."""
    worth = np.nan_to_num(lost / tokens, nan=-1.0)
    rank = np.empty(worth.shape, dtype=np.int64)
    places = np.broadcast_to(np.arange(worth.shape[1]), worth.shape)
    np.put_along_axis(rank, np.argsort(-worth, axis=1, kind="stable"), places, axis=1)
    return (rank < sizes[:, None]) & ~np.isnan(lost)


def _missing(part: Part) -> NDArray[np.bool_]:
    """What a table of everything lacks; it does not hold those who are judged on nothing."""
    missing: NDArray[np.bool_] = np.isnan(part.gains) & part.eligible.any(axis=1, keepdims=True)
    return missing


class _Sample:
    """A reservoir of rows that have cells: every such row of the pool has the same chance to be in it."""

    def __init__(self, rng: np.random.Generator, anchors: int) -> None:
        self._rng = rng
        self._anchors = anchors
        self._kept: list[NDArray[np.float32]] = []
        self._seen = 0

    def add(self, gains: NDArray[np.float32]) -> None:
        for row in gains[~np.isnan(gains).all(axis=1)]:
            self._seen += 1
            if len(self._kept) < SAMPLE:
                self._kept.append(row.copy())
            elif (place := int(self._rng.integers(self._seen))) < SAMPLE:
                self._kept[place] = row.copy()

    def rows(self) -> NDArray[np.float32]:
        return np.array(self._kept, dtype=np.float32).reshape(len(self._kept), self._anchors)


def _joined(bounds: ScoreBounds, pace: RaceSchedule) -> int:
    """How many candidates of the pool, in its order, take part: a pilot, then more each round.

    Ids are hashes, so the first of them are a random sample.
    """
    pool = len(bounds.wins)
    begun = int((bounds.cells > 0).sum())
    return min(pool, max(pace.pilot, ceil(pool / _PILOT_SHARE), ceil(begun * pace.growth)))


def _aim(bounds: ScoreBounds, cut: Cut, plausible: NDArray[np.float64], pace: RaceSchedule) -> float:
    """The score at which the bar is expected to end: who falls below it waits, and may never be looked at again."""
    certain = cutoff(bounds.low, cut)
    if isinstance(cut, Threshold):
        return certain
    if not bounds.cells.any():
        return max(certain, _FIRST_AIM)
    pool, active = len(bounds.wins), len(plausible)
    among = max(1, int(np.ceil(kept_count(cut, pool) * active / pool)))
    expected = float(np.partition(plausible, active - among)[active - among] + pace.optimism * plausible.std())
    # Whoever has one of the best upper bounds needs further cells whatever the others do, so the aim can't be higher.
    reachable = float(np.partition(bounds.high[:active], active - among)[active - among])
    return max(certain, min(expected, reachable))


def _lost(model: GainModel, part: Part) -> NDArray[np.float64]:
    found = loss_probabilities(model, part.gains)
    found[~np.isnan(part.gains) | ~part.eligible] = np.nan
    return found


def _first(part: Part, size: int) -> Part:
    return replace(part, gains=part.gains[:size], eligible=part.eligible[:size])


def _choices(
    parts: Parts, model: GainModel, tokens: NDArray[np.float64], sizes: NDArray[np.int64]
) -> Iterator[CellsToCompute]:
    start = 0
    for part in parts():
        wanted = sizes[start : start + len(part.gains)]
        start += len(part.gains)
        playing = np.flatnonzero(wanted)
        if len(playing):
            cells = np.zeros(part.gains.shape, dtype=bool)
            some = replace(part, gains=part.gains[playing], eligible=part.eligible[playing])
            cells[playing] = chosen_cells(_lost(model, some), tokens, wanted[playing])
            yield CellsToCompute(part, cells)
