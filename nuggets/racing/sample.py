"""A random sample of the candidates with known gains, drawn in one pass over a pool of any size. Pure."""

import numpy as np
from numpy.typing import NDArray

SAMPLE = 2048  # candidates that the gain model is fitted to


class GainSample:
    """Reservoir sampling: every candidate that has cells is in the sample with the same probability."""

    def __init__(self, rng: np.random.Generator, anchors: int) -> None:
        self._rng = rng
        self._rows = np.empty((SAMPLE, anchors), dtype=np.float32)
        self._seen = 0

    def add(self, gains: NDArray[np.float32]) -> int:
        """Offer gains `(candidates, anchors)` in nats, NaN where not computed; returns how many cells are known."""
        known = ~np.isnan(gains)
        rows = gains[known.any(axis=1)]
        first = rows[: max(0, SAMPLE - self._seen)]  # until the sample is full, every row is in it
        self._rows[self._seen : self._seen + len(first)] = first
        later = rows[len(first) :]
        seen = self._seen + len(first) + np.arange(1, len(later) + 1)  # with each of the later rows
        places = self._rng.integers(seen)
        chosen = np.flatnonzero(places < SAMPLE)
        self._rows[places[chosen]] = later[chosen]  # where two rows fall on one place, the last one stays
        self._seen += len(rows)
        return int(known.sum())

    def rows(self) -> NDArray[np.float32]:
        """The gains `(candidates, anchors)` of the sample."""
        return self._rows[: min(self._seen, SAMPLE)]
