"""Probabilities that a candidate loses each anchor, estimated from known cells. Pure; no selection depends on them.

The gains (cell minus baseline) of one candidate are correlated: similar anchors are won and lost together. After
squashing, gains are modelled as jointly Gaussian with a few common factors, so that the known gains of a candidate
change the probabilities of all others:

```
x_ij = mean_j + sum_f factor_if * loading_jf + noise_ij          x = tanh(gain / scale)
```

Which cells are missing depends on the known ones. The model allows for that. A plain loss rate would be biased, since
only the better candidates get cells of the later anchors.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

FACTORS = 12
_PASSES = 4
_PRIOR_ROWS = 8  # weight, in candidates, of the pool-wide variance against that of one anchor
_MARGIN = 1e-6  # probabilities are clipped to [1e-6, 1 - 1e-6]: a sample of equal gains has no variance
_TRUST_ROWS = 20  # with 20 candidates half of the common variance is used; the rest may be chance


@dataclass(frozen=True, slots=True)
class GainModel:
    """`mean` and `noise` (a variance) are `(anchors,)`, `loadings` is `(anchors, factors)`."""

    scale: float
    mean: NDArray[np.float64]
    loadings: NDArray[np.float64]
    noise: NDArray[np.float64]


def fit_gains(gains: NDArray[np.float32]) -> GainModel:
    """The model of a sample of gains `(candidates, anchors)`, NaN where not computed."""
    known = ~np.isnan(gains)
    anchors = gains.shape[1]
    if not known.any():
        return GainModel(1.0, np.zeros(anchors), np.zeros((anchors, 1)), np.ones(anchors))
    scale = 2 * float(np.median(np.abs(gains[known], dtype=np.float64))) or 1.0
    squashed = _squashed(gains, scale)
    pool_mean, spread = squashed[known].mean(), squashed[known].var() + 1e-3
    shared = np.zeros_like(squashed)  # the share of each cell that the factors explain
    for _ in range(_PASSES):
        # Without subtracting this share, anchors that only the better candidates have cells of would look too easy.
        mean = (np.where(known, squashed - shared, 0.0).sum(axis=0) + pool_mean) / (known.sum(axis=0) + 1)
        observed = np.where(known, squashed - mean, 0.0)
        model = _factors(scale, mean, np.where(known, observed, shared), observed, known, spread)
        factors, _ = _posterior(model, observed, known)
        shared = factors @ model.loadings.T
    return model


def loss_probabilities(model: GainModel, gains: NDArray[np.float32]) -> NDArray[np.float64]:
    """The probability of a loss `(candidates, anchors)`, given the known cells of the candidate."""
    known = ~np.isnan(gains)
    factors, covariance = _posterior(model, np.where(known, _squashed(gains, model.scale) - model.mean, 0.0), known)
    anchors, width = model.loadings.shape
    outer = (model.loadings[:, :, None] * model.loadings[:, None, :]).reshape(anchors, width * width)
    variance = model.noise + covariance.reshape(len(gains), width * width) @ outer.T
    expected: NDArray[np.float64] = ndtr(-(model.mean + factors @ model.loadings.T) / np.sqrt(variance))
    return np.clip(expected, _MARGIN, 1 - _MARGIN)


def _squashed(gains: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    return np.tanh(np.nan_to_num(gains, nan=0.0).astype(np.float64) / scale)


def _factors(
    scale: float,
    mean: NDArray[np.float64],
    imputed: NDArray[np.float64],
    observed: NDArray[np.float64],
    known: NDArray[np.bool_],
    spread: float,
) -> GainModel:
    rows = len(imputed)
    width = max(1, min(FACTORS, rows, imputed.shape[1]))
    _, size, directions = np.linalg.svd(imputed, full_matrices=False)
    loadings = directions[:width].T * (size[:width] / np.sqrt(rows + _TRUST_ROWS))
    variance = ((observed**2).sum(axis=0) + _PRIOR_ROWS * spread) / (known.sum(axis=0) + _PRIOR_ROWS)
    noise = np.maximum(variance - (loadings**2).sum(axis=1), 0.05 * spread)
    return GainModel(scale, mean, loadings, noise)


def _posterior(
    model: GainModel, centred: NDArray[np.float64], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean `(candidates, factors)` and covariance `(candidates, factors, factors)` of the factors, given the cells."""
    anchors, width = model.loadings.shape
    weighted = model.loadings / model.noise[:, None]
    outer = (model.loadings[:, :, None] * weighted[:, None, :]).reshape(anchors, width * width)
    precision = (known.astype(np.float64) @ outer).reshape(len(known), width, width) + np.eye(width)
    covariance = np.linalg.inv(precision).astype(np.float64, copy=False)
    evidence = (centred * known) @ weighted
    mean: NDArray[np.float64] = np.einsum("nab,nb->na", covariance, evidence)
    return mean, covariance
