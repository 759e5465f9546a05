"""The engine and its rivals, all on the same weights."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from measuring import bytes_in_use
from numpy.typing import NDArray
from rivals import padded, pairs, released
from workload import Prefix

from nuggets.engine.choose import open_engine
from nuggets.engine.interface import Continuation

Sums = Callable[[Sequence[Prefix], Sequence[Continuation]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Contestant:
    """An algorithm, and the transformers model whose weights it works on."""

    name: str
    title: str
    model: Any
    sums: Sums
    held_bytes: int = 0  # that came with opening it, above the weights

    @property
    def dtype(self) -> str:
        """Number format of the weights."""
        return dtype_name(self.model.dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, not `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def all_contestants(model: Any) -> list[Contestant]:
    """The engine and its three rivals; sums are compared with those of `pairs`."""
    pairs(model, [()], [Continuation((0, 1, 2), 1)])  # not measured: some libraries load at first use
    before = bytes_in_use(model.device)
    engine = open_engine(model)
    held = 0 if before is None else max(0, (bytes_in_use(model.device) or 0) - before)

    def ours(prefixes: Sequence[Prefix], anchors: Sequence[Continuation]) -> NDArray[np.float64]:
        return np.array(list(engine.log_prob_sums(prefixes, anchors)))

    return [
        Contestant("ours", f"ours ({type(engine).__name__})", model, ours, held),
        _rival("released", "released algorithm", released, model),
        _rival("pairs", "one pair at a time", pairs, model),
        _rival("padded", "padded, sorted pairs", padded, model),
    ]


def as_it_was_released(model: Any) -> Contestant:
    """The released algorithm in float32: with the very weights of `model`, which has fewer digits."""
    return _rival("released_fp32", "released, as it was", released, copy.deepcopy(model).float())


def _rival(name: str, title: str, sums: Callable[..., NDArray[np.float64]], model: Any) -> Contestant:
    return Contestant(name, title, model, lambda *given: sums(model, *given))
