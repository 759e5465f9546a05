"""Attention of packed continuations: each over its own tokens, and over its demonstration's in place.

The softmax over [demonstration; own tokens] is taken in two parts, each with its log-sum-exp, and put together:

    lse = log(exp(lse_shared) + exp(lse_own)),   out = out_shared * exp(lse_shared - lse) + out_own * exp(lse_own - lse)

so a demonstration's keys and values are neither copied per continuation nor computed twice. It is registered with
transformers as an attention implementation, which leaves the code of every model family as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from nuggets.engine.attention_kernels import Attend, longest_reach

PACKED_ATTENTION = "nuggets_packed"
KeysValues = dict[nn.Module, tuple[Tensor, Tensor]]  # per attention layer, each (1, key heads, tokens, head size)


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What the attention layers have to know of the forward pass that they are in.

    `own`: over this pass's keys and values. `shared` and `keys_values`: over those of the demonstrations in front, if
    there are any. `record`: where to leave this pass's own keys and values, if it is the demonstrations'.
    """

    own: Attend
    shared: Attend | None = None
    keys_values: KeysValues | None = None
    record: KeysValues | None = None


_current: ContextVar[ForwardPass] = ContextVar("forward_pass")


@contextmanager
def forward_pass(described: ForwardPass) -> Iterator[None]:
    """Describe the forward passes made inside to the attention layers."""
    token = _current.set(described)
    try:
        yield
    finally:
        _current.reset(token)


def packed_attention(
    module: nn.Module,
    query: Tensor,  # (1, heads, tokens, head size)
    key: Tensor,  # (1, key heads, tokens, head size)
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention output `(1, tokens, heads, head size)`, by the signature of transformers' attention functions.

    Raises NotImplementedError for what a model asks of its attention beyond that: an engine that is tried finds out so,
    also where leaving it out would make too little difference in a trial to be seen.
    """
    current = _current.get()
    _refuse(attention_mask is not None, "a mask of the model's own")
    _refuse(bool(softcap), f"soft-capped logits (softcap={softcap})")
    _refuse(s_aux is not None, "attention sinks (s_aux)")
    if sliding_window is not None:
        reach = longest_reach(current.own.pieces, current.shared.pieces if current.shared else None)
        _refuse(reach > sliding_window, f"a window of {sliding_window} tokens over sequences of {reach}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if current.record is not None:
        current.record[module] = (_alone(key), _alone(value))
    out, lse = current.own(query, key, value, scale)
    if current.shared is not None and current.keys_values is not None:
        shared, shared_lse = current.shared(query, *current.keys_values[module], scale)
        out = _merge(out, lse, shared, shared_lse)
    return out.transpose(1, 2), None


def _alone(part: Tensor) -> Tensor:
    """Itself, or a copy where it is a view: models that make queries, keys and values in one product keep all three."""
    return part.clone() if part.untyped_storage().nbytes() > part.nbytes else part


def _refuse(asked: bool, what: str) -> None:
    if asked:
        raise NotImplementedError(f"packed attention is not made for {what}")


def _merge(own: Tensor, own_lse: Tensor, shared: Tensor, shared_lse: Tensor) -> Tensor:
    weight = torch.sigmoid(own_lse.float() - shared_lse.float()).unsqueeze(-1)
    if own.dtype in (torch.bfloat16, torch.float16):
        return torch.lerp(shared.float(), own.float(), weight).to(own.dtype)
    return torch.lerp(shared, own, weight.to(own.dtype))


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
