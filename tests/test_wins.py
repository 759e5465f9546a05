"""The win rule: a cell strictly above the baseline wins, a tie is a loss, a missing cell is neither."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nuggets.scores.wins import cell_gains, losses, wins

NAN = float("nan")
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
LEAST = float(np.finfo(np.float32).smallest_subnormal)
SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[float, float]:
    """A float and itself or the next one above or below: what subtraction is most likely to take for equal."""
    value = np.float32(draw(FLOATS))
    to = draw(st.sampled_from([-np.inf, float(value), np.inf]))
    other = np.nextafter(value, np.float32(to))
    return float(value), float(other if np.isfinite(other) else value)


@given(st.tuples(FLOATS, FLOATS) | neighbours())
@example((LEAST, 0.0))
@example((0.0, -0.0))
@example((-LEAST, 0.0))
@example((SMALLEST_NORMAL, SMALLEST_NORMAL - LEAST))
@example((3.4e38, -3.4e38))
def test_a_gain_above_0_is_exactly_a_cell_above_the_baseline(pair: tuple[float, float]):
    cell, baseline = np.array(pair[:1], dtype=np.float32), np.array(pair[1:], dtype=np.float32)
    with np.errstate(over="ignore"):
        gains = cell_gains(cell, baseline)
    counts = np.ones(1, dtype=bool)
    assert wins(gains, counts).tolist() == (cell > baseline).tolist()
    assert losses(gains, counts).tolist() == (cell <= baseline).tolist()


def test_a_missing_cell_and_one_that_does_not_count_are_neither_win_nor_loss():
    gains = cell_gains(np.array([[1, 1, NAN, -1, 0]], dtype=np.float32), np.zeros(5, dtype=np.float32))
    eligible = np.array([[True, False, True, True, True]])
    assert wins(gains, eligible).tolist() == [[True, False, False, False, False]]
    assert losses(gains, eligible).tolist() == [[False, False, False, True, True]]


def test_gains_of_another_precision_than_the_stored_one_are_refused():
    with pytest.raises(TypeError, match="cells are float64 and baselines float32"):
        cell_gains(np.zeros((1, 1)), np.zeros(1, dtype=np.float32))  # type: ignore[arg-type]
