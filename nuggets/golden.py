"""The golden score: the share of anchors that a candidate, shown as a demonstration, makes more probable. Pure.

A candidate wins an anchor if its cell is strictly above the anchor's baseline (arXiv 2312.10302); a tie is a
loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class GoldenTable:
    """What was found about each candidate, in the order of the pool.

    `anchors`: how many anchors it was judged on. `mean_gain`: mean over anchors of (cell - baseline) per response
    token, nats per token (nats per anchor in an imported run); NaN where only the score is known.
    """

    candidate_ids: tuple[str, ...]
    candidate_rows: NDArray[np.int64]
    wins: NDArray[np.int32]
    anchors: NDArray[np.int32]
    mean_gain: NDArray[np.float64]

    @property
    def golden_score(self) -> NDArray[np.float64]:
        """Wins over anchors, 0 to 1; 0 for a candidate that was judged on no anchor."""
        return self.wins / np.maximum(self.anchors, 1)


def golden_table(
    cells: NDArray[np.float32],
    zero_shot: NDArray[np.float32],
    response_tokens: NDArray[np.int32],
    *,
    candidate_ids: Sequence[str],
    candidate_rows: Sequence[int],
    anchor_ids: Sequence[str],
    keep_own_cell: bool,
) -> GoldenTable:
    """Judge candidates by a full table of cells `(candidates, anchors)` in nats.

    `keep_own_cell`: whether a candidate that is itself an anchor is also judged on that anchor (profile `released`);
    otherwise this cell counts neither as a win nor as an anchor. Raises ValueError if a cell is missing.
    """
    missing = int(np.isnan(cells).sum())
    if missing:
        raise ValueError(f"{missing} of {cells.size} cells are missing: a golden score needs all of them")
    judged = np.ones(cells.shape, dtype=bool)
    if not keep_own_cell:
        judged &= np.array(candidate_ids)[:, None] != np.array(anchor_ids)[None, :]
    wins = (cells > zero_shot) & judged
    # Anchors that the token limit left without response (profile released) are losses, but have no gain per token.
    measured = judged & (response_tokens > 0)
    gains = (cells.astype(np.float64) - zero_shot) / np.maximum(response_tokens, 1)
    return GoldenTable(
        tuple(candidate_ids),
        np.asarray(candidate_rows, dtype=np.int64),
        wins.sum(axis=1, dtype=np.int32),
        judged.sum(axis=1, dtype=np.int32),
        np.where(measured, gains, 0.0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1),
    )
