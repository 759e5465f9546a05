"""The golden score: the share of anchors that a candidate, shown as a demonstration, makes more probable. Pure.

`scores.wins` decides which cells are wins. Where cells are missing, the score is an interval.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nuggets.scores.bounds import ScoreBounds, score_bounds
from nuggets.scores.wins import cell_gains


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores of some candidates of a pool, in its order; one entry per candidate in each field.

    `candidate_ids` is a pyarrow array of strings, `shards` the index of each candidate's shard. `anchors` is the number
    of anchors on which a candidate is eligible, `cells` the number of them with a known cell. `mean_gain` is the mean
    over anchors of (cell - baseline) per response token, in nats per token (nats per anchor in an imported run); NaN
    where cells are missing, or where only the score is known.
    """

    candidate_ids: Any
    candidate_rows: NDArray[np.int64]
    shards: NDArray[np.int32]
    wins: NDArray[np.int32]
    cells: NDArray[np.int32]
    anchors: NDArray[np.int32]
    mean_gain: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.wins)

    @property
    def bounds(self) -> ScoreBounds:
        """Wins, losses and anchors."""
        return ScoreBounds(self.wins, self.cells - self.wins, self.anchors)

    @property
    def golden_score(self) -> NDArray[np.float64]:
        """Wins over anchors, 0 to 1; NaN where cells are missing or a candidate has no eligible anchors."""
        return np.where((self.cells == self.anchors) & (self.anchors > 0), self.bounds.low, np.nan)


def score_table(
    cells: NDArray[np.float32],
    zero_shot: NDArray[np.float32],
    response_tokens: NDArray[np.int32],
    *,
    candidate_ids: Any,
    candidate_rows: NDArray[np.int64],
    shard: int,
    eligible: NDArray[np.bool_],
) -> ScoreTable:
    """The scores of a shard's candidates by their cells `(candidates, anchors)` in nats, NaN where not computed."""
    bounds = score_bounds(cell_gains(cells, zero_shot), eligible)
    # The token limit leaves some anchors without response tokens (profile released). They are losses, but have no gain
    # per token.
    measured = eligible & ~np.isnan(cells) & (response_tokens > 0)
    gain_per_token = (cells.astype(np.float64) - zero_shot) / np.maximum(response_tokens, 1)
    mean_gain = np.where(measured, gain_per_token, 0.0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)
    return ScoreTable(
        candidate_ids,
        candidate_rows,
        np.full(len(cells), shard, dtype=np.int32),
        bounds.wins,
        bounds.cells,
        bounds.anchors,
        np.where(bounds.complete, mean_gain, np.nan),
    )


def eligible_cells(
    candidate_ids: Any, anchor_ids: Sequence[str], *, keep_own_cell: bool, unscorable: Collection[str] = ()
) -> NDArray[np.bool_]:
    """Mask `(candidates, anchors)` of the cells that count: all except that of a candidate that is the anchor itself.

    `keep_own_cell` counts that one, too: profile `released` does so, as the authors' program does. A candidate in
    `unscorable` is eligible on no anchor.
    """
    eligible = np.ones((len(candidate_ids), len(anchor_ids)), dtype=bool)
    if not keep_own_cell:
        row = pc.index_in(pa.array(anchor_ids, pa.string()), value_set=candidate_ids)
        for anchor, candidate in enumerate(row.to_pylist()):
            if candidate is not None:
                eligible[candidate, anchor] = False
    if unscorable:
        eligible[pc.is_in(candidate_ids, value_set=pa.array(sorted(unscorable), pa.string())).to_numpy(False)] = False
    return eligible
