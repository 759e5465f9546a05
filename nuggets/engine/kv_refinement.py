"""The authors' `kv_iter`: momentum steps refine a demonstration's keys and values before anything attends to them.

Each further iteration computes the demonstration's keys and values once more, behind those that it has, and takes the
difference as a gradient (`MomentumOptim` of the released program):

    g = again(kv) - kv,   m = g the first time, then g + 0.9 m,   kv = kv + 0.01 m
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nuggets.engine.attention import KeysValues
from nuggets.errors import InputError

STEP_SIZE = 0.01
MOMENTUM = 0.9


@torch.inference_mode()
def refine(keys_values: KeysValues, again: Callable[[KeysValues], KeysValues], *, iterations: int) -> KeysValues:
    """Keys and values after `iterations`; the first of these is the one that computed `keys_values`.

    Summed in float32 or better: in 16 bits, a hundredth of a difference is less than the last digit.
    """
    exact = {layer: _combine(pair) for layer, pair in keys_values.items()}
    velocity: KeysValues = {}
    for _ in range(iterations - 1):
        recomputed = again(_as_given(exact, keys_values))
        gradient = {layer: _combine(recomputed[layer], exact[layer], -1.0) for layer in recomputed}
        velocity = {
            layer: _combine(step, velocity[layer], MOMENTUM) if velocity else step for layer, step in gradient.items()
        }
        exact = {layer: _combine(pair, velocity[layer], STEP_SIZE) for layer, pair in exact.items()}
    return _as_given(exact, keys_values)


def check_refinable(tokens: int, model: Any, *, context: int | None, fits: bool) -> None:
    """Raise InputError if a demonstration cannot be refined: refining places it behind itself, which takes positions.

    `context`: tokens that the model's attention reaches back; `fits`: whether the demonstration and its anchors do not
    exceed them.
    """
    if context is not None and (2 * tokens > context or not fits):
        raise InputError(
            f"kv_iter above 1 can't refine a demonstration of {tokens} tokens: with what follows it, "
            f"it is longer than the {context} tokens that this model's attention reaches back; lower "
            "demonstration_tokens or use kv_iter=1"
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and 2 * tokens > positions:
        raise InputError(
            f"kv_iter above 1 can't refine a demonstration of {tokens} tokens: refining appends it to itself, and this "
            f"model has {positions} positions; lower demonstration_tokens to at most {positions // 2} or use "
            "kv_iter=1"
        )


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
