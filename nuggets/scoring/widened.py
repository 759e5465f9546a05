"""Models of 16 bits that compute in float32 for a while, without a second copy of their weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_NARROW = (torch.bfloat16, torch.float16)


@contextmanager
def widened(*models: Any) -> Iterator[None]:
    """Inside, a module has its weights in float32 while it is called, so that rounding hides nothing.

    Heads have them all the time: their weights are read without calling them. One thread at a time may use a model.
    """
    given: dict[nn.Module, dict[str, Tensor]] = {}

    def widen(module: nn.Module, *_: Any) -> None:
        own: dict[str, Tensor] = {
            name: weight for name, weight in module.named_parameters(recurse=False) if weight.dtype in _NARROW
        }
        for name, weight in own.items():
            # Not Module.register_parameter, and not Parameter.data: what other modules share stays as it is.
            module._parameters[name] = nn.Parameter(weight.float(), requires_grad=False)
        given.setdefault(module, own)

    def restore(module: nn.Module, *_: Any) -> None:
        module._parameters.update(given.pop(module, {}))  # type: ignore[arg-type]

    heads = [model.get_output_embeddings() for model in models]
    modules = {module for model in models for module in model.modules()} - {None, *heads}
    handles = [
        handle
        for module in modules
        if any(weight.dtype in _NARROW for weight in module.parameters(recurse=False))
        for handle in (
            module.register_forward_pre_hook(widen),
            module.register_forward_hook(restore, always_call=True),
        )
    ]
    try:
        for head in heads:
            if head is not None:
                widen(head)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(given):
            restore(module)
