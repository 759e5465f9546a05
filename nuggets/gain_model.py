"""Which anchors a candidate will probably lose, told from the cells that are known. Pure; no answer depends on it.

Gains (cell minus baseline) of one candidate hang together: anchors of a kind are won and lost together. They are
modelled as jointly Gaussian after squashing, with a few common factors, so that what a candidate has shown on some
anchors moves the odds on all others:

```
x_ij = mean_j + sum_f factor_if * loading_jf + noise_ij          x = tanh(gain / scale)
```

Cells are missing because of what others showed, which such a model allows for; a plain loss rate would not, since only
the better candidates ever come to the later anchors.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

FACTORS = 12
_IMPUTATIONS = 3
_PRIOR_ROWS = 8  # how many candidates' worth of trust the pool-wide spread has against an anchor's own
_DOUBT = 1e-6  # no loss is taken to be more certain than by this: a sample in which all gains are alike shows no chance
_COMMON = 0.5  # share of the sample covariance that is believed: the rest of it is chance in small samples


@dataclass(frozen=True, slots=True)
class GainModel:
    """`mean` and `noise` (a variance) are `(anchors,)`, `loadings` is `(anchors, factors)`."""

    scale: float
    mean: NDArray[np.float64]
    loadings: NDArray[np.float64]
    noise: NDArray[np.float64]


def fit_gains(gains: NDArray[np.float32]) -> GainModel:
    """The model of a sample of candidates' gains `(candidates, anchors)`, NaN where not computed."""
    known = ~np.isnan(gains)
    anchors = gains.shape[1]
    if not known.any():
        return GainModel(1.0, np.zeros(anchors), np.zeros((anchors, 1)), np.ones(anchors))
    scale = 2 * float(np.median(np.abs(gains[known], dtype=np.float64))) or 1.0
    squashed = _squashed(gains, scale)
    everywhere, spread = squashed[known].mean(), squashed[known].var() + 1e-3
    count = known.sum(axis=0)
    mean = (squashed.sum(axis=0) + everywhere) / (count + 1)
    centred = np.where(known, squashed - mean, 0.0)
    for _ in range(_IMPUTATIONS):
        model = _factors(scale, mean, centred, spread)
        factors, _ = _posterior(model, np.where(known, squashed - mean, 0.0), known)
        centred = np.where(known, squashed - mean, factors @ model.loadings.T)
    return _factors(scale, mean, centred, spread)


def loss_probabilities(model: GainModel, gains: NDArray[np.float32]) -> NDArray[np.float64]:
    """For each candidate and anchor `(candidates, anchors)` the probability of a loss, given the candidate's cells."""
    known = ~np.isnan(gains)
    factors, covariance = _posterior(model, np.where(known, _squashed(gains, model.scale) - model.mean, 0.0), known)
    anchors, width = model.loadings.shape
    outer = (model.loadings[:, :, None] * model.loadings[:, None, :]).reshape(anchors, width * width)
    variance = model.noise + covariance.reshape(len(gains), width * width) @ outer.T
    expected: NDArray[np.float64] = ndtr(-(model.mean + factors @ model.loadings.T) / np.sqrt(variance))
    return np.clip(expected, _DOUBT, 1 - _DOUBT)


def _squashed(gains: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    return np.tanh(np.nan_to_num(gains, nan=0.0).astype(np.float64) / scale)


def _factors(scale: float, mean: NDArray[np.float64], centred: NDArray[np.float64], spread: float) -> GainModel:
    rows = len(centred)
    width = max(1, min(FACTORS, rows, centred.shape[1]))
    _, size, directions = np.linalg.svd(centred, full_matrices=False)
    loadings = directions[:width].T * (size[:width] * np.sqrt(_COMMON / rows))
    variance = ((centred**2).sum(axis=0) + _PRIOR_ROWS * spread) / (rows + _PRIOR_ROWS)
    noise = np.maximum(variance - (loadings**2).sum(axis=1), 0.05 * spread)
    return GainModel(scale, mean, loadings, noise)


def _posterior(
    model: GainModel, centred: NDArray[np.float64], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The factors' mean `(candidates, factors)` and covariance `(candidates, factors, factors)`, given known cells."""
    anchors, width = model.loadings.shape
    weighted = model.loadings / model.noise[:, None]
    outer = (model.loadings[:, :, None] * weighted[:, None, :]).reshape(anchors, width * width)
    precision = (known.astype(np.float64) @ outer).reshape(len(known), width, width) + np.eye(width)
    covariance = np.linalg.inv(precision).astype(np.float64, copy=False)
    pulled = (centred * known) @ weighted
    mean: NDArray[np.float64] = np.einsum("nab,nb->na", covariance, pulled)
    return mean, covariance
