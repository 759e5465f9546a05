"""Bounds of golden scores while cells are missing, and the candidates that a cut leaves undecided. Pure.

With w wins and r missing cells of m anchors, a candidate's golden score lies in [w/m, (w + r)/m]. A candidate that the
cut keeps needs all of its cells, because its score is reported and ranked. A dropped one needs only enough losses:

```
threshold t         out if (w + r)/m <= t
best k of a pool    out if (w + r)/m <  the k-th highest w/m       (equal could still win by its mean gain)
```
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuggets.scores.cuts import Cut, Threshold, kept_count
from nuggets.scores.wins import losses, wins


@dataclass(frozen=True, slots=True)
class ScoreBounds:
    """Known wins and losses of each candidate, and how many anchors it is eligible on; arrays `(candidates,)`."""

    wins: NDArray[np.int32]
    losses: NDArray[np.int32]
    anchors: NDArray[np.int32]

    @property
    def cells(self) -> NDArray[np.int32]:
        """How many cells of each candidate are known."""
        return self.wins + self.losses

    @property
    def low(self) -> NDArray[np.float64]:
        """The golden score if all missing cells are losses."""
        return self.wins / np.maximum(self.anchors, 1)

    @property
    def high(self) -> NDArray[np.float64]:
        """The golden score if all missing cells are wins; 0 for a candidate without eligible anchors."""
        return (self.anchors - self.losses) / np.maximum(self.anchors, 1)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """True where no cell is missing, so that the score is known."""
        return np.equal(self.cells, self.anchors)


def score_bounds(gains: NDArray[np.float32], eligible: NDArray[np.bool_]) -> ScoreBounds:
    """The bounds that gains `(candidates, anchors)` in nats give, NaN where not computed.

    `eligible` is False where an anchor does not count for a candidate, because the candidate is that anchor.
    """
    return ScoreBounds(
        wins(gains, eligible).sum(axis=1, dtype=np.int32),
        losses(gains, eligible).sum(axis=1, dtype=np.int32),
        eligible.sum(axis=1, dtype=np.int32),
    )


def concatenate_bounds(shards: Sequence[ScoreBounds]) -> ScoreBounds:
    """The bounds of several shards as one, in order."""
    if not shards:
        empty = np.empty(0, dtype=np.int32)
        return ScoreBounds(empty, empty, empty)
    return ScoreBounds(
        np.concatenate([shard.wins for shard in shards]),
        np.concatenate([shard.losses for shard in shards]),
        np.concatenate([shard.anchors for shard in shards]),
    )


def cutoff(low: NDArray[np.float64], cut: Cut, count: NDArray[np.int64] | None = None) -> float:
    """The score that a candidate has to reach to be kept, given the known cells; further cells can only raise it.

    A threshold gives the next float above it. A cut by rank gives the k-th highest lower bound of the pool, or a score
    above 1 if it keeps none. `count` is the number of candidates with each lower bound, 1 by default.
    """
    if isinstance(cut, Threshold):
        return float(np.nextafter(cut.value, np.inf))
    counts = np.ones(len(low), dtype=np.int64) if count is None else count
    kept = kept_count(cut, int(counts.sum()))
    if kept == 0:
        return float(np.nextafter(1.0, np.inf))
    order = np.argsort(-low)
    return float(low[order[np.searchsorted(np.cumsum(counts[order]), kept)]])


def undecided(bounds: ScoreBounds, cut: Cut, count: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
    """Mask of candidates whose missing cells can still change the cut of the pool; all False once it is decided."""
    return ~bounds.complete & (bounds.high >= cutoff(bounds.low, cut, count))
