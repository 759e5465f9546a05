"""The authors' `kv_iter`: a demonstration's keys and values are refined by momentum steps before they are used.

Each further iteration computes the demonstration's keys and values once more, behind those that it has, and takes the
difference as a gradient (`MomentumOptim` of the released program):

    g = again(kv) - kv,   m = g the first time, then g + 0.9 m,   kv = kv + 0.01 m
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nuggets.scoring.attention import KeysValues

STEP_SIZE = 0.01
MOMENTUM = 0.9


@torch.inference_mode()
def refine(keys_values: KeysValues, again: Callable[[KeysValues], KeysValues], *, iterations: int) -> KeysValues:
    """Keys and values after `iterations`, of which computing them in the first place is number one.

    Summed up in float32 or better: in 16 bits, a hundredth of a difference is less than the last digit.
    """
    exact = {layer: _combine(pair) for layer, pair in keys_values.items()}
    velocity: KeysValues = {}
    for _ in range(iterations - 1):
        found = again(_as_given(exact, keys_values))
        gradient = {layer: _combine(found[layer], exact[layer], -1.0) for layer in found}
        velocity = {
            layer: _combine(step, velocity[layer], MOMENTUM) if velocity else step for layer, step in gradient.items()
        }
        exact = {layer: _combine(pair, velocity[layer], STEP_SIZE) for layer, pair in exact.items()}
    return _as_given(exact, keys_values)


def _combine(
    pair: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor] | None = None, weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """pair + weight * other, keys with keys and values with values, with the digits of float32 or more."""
    keys, values = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in pair)
    return (keys, values) if other is None else (keys + weight * other[0], values + weight * other[1])


def _as_given(exact: KeysValues, given: KeysValues) -> KeysValues:
    return {
        layer: (keys.to(given[layer][0].dtype), values.to(given[layer][1].dtype))
        for layer, (keys, values) in exact.items()
    }
