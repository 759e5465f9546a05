"""Where a win is decided: a candidate wins an anchor if its cell is strictly above the anchor's baseline. Pure.

A tie is a loss (arXiv 2312.10302). A cell that is missing, or on which the candidate is not eligible, is neither.

Gains are subtracted in float32, as cells and baselines are stored. `gain > 0` is then exactly `cell > baseline`: the
difference of two unequal finite floats never rounds to 0, because IEEE arithmetic underflows gradually (the least
difference of two float32 numbers is itself a float32 number), and rounding keeps the sign.
"""

import numpy as np
from numpy.typing import NDArray


def cell_gains(cells: NDArray[np.float32], zero_shot: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cell minus baseline in nats `(candidates, anchors)`, NaN where a cell is missing."""
    if cells.dtype != np.float32 or zero_shot.dtype != np.float32:
        raise TypeError(f"cells are {cells.dtype} and baselines {zero_shot.dtype}: both have to be float32")
    return cells - zero_shot


def wins(gains: NDArray[np.float32], eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True where an eligible candidate wins the anchor; the only place that applies the rule."""
    is_win: NDArray[np.bool_] = (gains > 0) & eligible
    return is_win


def losses(gains: NDArray[np.float32], eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True where the cell of an eligible candidate is known and no win."""
    is_loss: NDArray[np.bool_] = (gains <= 0) & eligible
    return is_loss
