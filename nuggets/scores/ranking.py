"""The total order of candidates, as keys that compare like bytes. Pure."""

import numpy as np
from numpy.typing import NDArray

from nuggets.examples import EXAMPLE_ID_LENGTH
from nuggets.scores.bounds import ScoreBounds
from nuggets.scores.golden import ScoreTable

_SCORE_BYTES = 16
KEY_BYTES = _SCORE_BYTES + 8 + EXAMPLE_ID_LENGTH
Keys = NDArray[np.bytes_]


def rank_keys(table: ScoreTable) -> Keys:
    """One key per candidate, the smallest for the best: by golden score, then mean gain, then example id.

    A candidate that was dropped with cells missing ranks by the highest score it could have had, behind the candidates
    that have this score.
    """
    gains = np.where(np.isnan(table.mean_gain), -np.inf, table.mean_gain)
    return _joined(_score_bytes(table.bounds), _descending(gains), _id_bytes(table))


def score_keys(bounds: ScoreBounds) -> Keys:
    """The part of the rank keys that depends on the score alone."""
    return _joined(_score_bytes(bounds))


def _score_bytes(bounds: ScoreBounds) -> NDArray[np.uint8]:
    high = np.where(bounds.anchors > 0, bounds.high, -1.0)  # candidates without eligible anchors rank last
    return np.concatenate([_descending(high), _descending(bounds.low)], axis=1)


def _joined(*parts: NDArray[np.uint8]) -> Keys:
    joined = np.ascontiguousarray(np.concatenate(parts, axis=1))
    return joined.view(f"S{joined.shape[1]}").ravel()


def _descending(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Eight bytes per number, `(numbers, 8)`, which compare in the opposite order of the numbers."""
    bits = (values + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0: the bits of the two zeros differ
    sign = np.uint64(1 << 63)
    ascending = np.where(bits & sign, ~bits, bits | sign)
    return (~ascending).astype(">u8").view(np.uint8).reshape(len(values), 8)


def _id_bytes(table: ScoreTable) -> NDArray[np.uint8]:
    ids = np.array(table.candidate_ids.to_pylist(), dtype=f"S{EXAMPLE_ID_LENGTH}")
    return ids.view(np.uint8).reshape(len(ids), EXAMPLE_ID_LENGTH)
