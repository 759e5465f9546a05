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
_PASSES = 4
_PRIOR_ROWS = 8  # how many candidates' worth of trust the pool-wide spread has against an anchor's own
_DOUBT = 1e-6  # no loss is taken to be more certain than by this: a sample in which all gains are alike shows no chance
_TRUST_ROWS = 20  # with so many candidates, half of the variance in common is believed; the rest may be chance


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
    shared = np.zeros_like(squashed)  # what the factors say of each cell
    for _ in range(_PASSES):
        # Anchors that only the better candidates meet would look easier than they are, if not for what factors explain.
        mean = (np.where(known, squashed - shared, 0.0).sum(axis=0) + everywhere) / (known.sum(axis=0) + 1)
        observed = np.where(known, squashed - mean, 0.0)
        model = _factors(scale, mean, np.where(known, observed, shared), observed, known, spread)
        factors, _ = _posterior(model, observed, known)
        shared = factors @ model.loadings.T
    return model


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
    """The factors' mean `(candidates, factors)` and covariance `(candidates, factors, factors)`, given known cells."""
    anchors, width = model.loadings.shape
    weighted = model.loadings / model.noise[:, None]
    outer = (model.loadings[:, :, None] * weighted[:, None, :]).reshape(anchors, width * width)
    precision = (known.astype(np.float64) @ outer).reshape(len(known), width, width) + np.eye(width)
    covariance = np.linalg.inv(precision).astype(np.float64, copy=False)
    pulled = (centred * known) @ weighted
    mean: NDArray[np.float64] = np.einsum("nab,nb->na", covariance, pulled)
    return mean, covariance
