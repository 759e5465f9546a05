"""Where candidates stand while some of their cells are missing, and which of them a cut leaves undecided. Pure.

With w wins and r cells left of m, a candidate's golden score lies in [w/m, (w + r)/m]. A candidate that a cut keeps has
all of its cells, because its score is reported and ranks it. One that is dropped needs only enough losses to prove it:

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
    """Wins and losses so far, and the anchors that each candidate is judged on; arrays `(candidates,)`."""

    wins: NDArray[np.int32]
    losses: NDArray[np.int32]
    anchors: NDArray[np.int32]

    @property
    def cells(self) -> NDArray[np.int32]:
        """How many of the anchors each has met."""
        return self.wins + self.losses

    @property
    def low(self) -> NDArray[np.float64]:
        """The golden score if all cells that are left are lost."""
        return self.wins / np.maximum(self.anchors, 1)

    @property
    def high(self) -> NDArray[np.float64]:
        """The golden score if all cells that are left are won; 0 for a candidate that is judged on no anchor."""
        return (self.anchors - self.losses) / np.maximum(self.anchors, 1)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Whether all cells are there and the score is known."""
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
    """The score that a candidate has to reach to be kept, for all that is known now; it can only rise.

    For a threshold the next number above it; for a cut by rank the k-th highest of the pool's lower bounds, above 1 if
    none is kept. `count`: how many candidates have each lower bound, one if not given.
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
    """Whose missing cells the cut still needs, the whole pool given; nobody's once its answer is certain."""
    return ~bounds.complete & (bounds.high >= cutoff(bounds.low, cut, count))
