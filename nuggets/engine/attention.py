"""Attention of packed continuations: each attends to its own tokens and to those of its demonstration.

The softmax over [demonstration; own tokens] is computed in two parts, each with its log-sum-exp, which are merged:

    lse = log(exp(lse_shared) + exp(lse_own)),   out = out_shared * exp(lse_shared - lse) + out_own * exp(lse_own - lse)

so a demonstration's keys and values are neither copied per continuation nor computed twice. The function is registered
with transformers as an attention implementation, so that the code of the model families is used unchanged.
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
    """What the attention layers need to know about the forward pass that they run in.

    `own`: attention over this pass's keys and values. `shared`: over `keys_values`, those of the demonstrations in
    front, if there are any. `record`: receives this pass's own keys and values if it is a prefill.
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

    Raises NotImplementedError for arguments that it does not implement. The self-check relies on that: ignoring one
    could make too small a difference there to be seen.
    """
    current = _current.get()
    _refuse(attention_mask is not None, "an attention mask")
    _refuse(bool(softcap), f"soft-capped logits (softcap={softcap})")
    _refuse(s_aux is not None, "attention sinks (s_aux)")
    if sliding_window is not None:
        reach = longest_reach(current.own.pieces, current.shared.pieces if current.shared else None)
        _refuse(reach > sliding_window, f"a window of {sliding_window} tokens over sequences of {reach}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if current.record is not None:
        current.record[module] = (_owned(key), _owned(value))
    out, lse = current.own(query, key, value, scale)
    if current.shared is not None and current.keys_values is not None:
        shared, shared_lse = current.shared(query, *current.keys_values[module], scale)
        out = _merge(out, lse, shared, shared_lse)
    return out.transpose(1, 2), None


def _owned(part: Tensor) -> Tensor:
    """The tensor, or a copy if it is a view: keys that are part of a product with queries would keep all of it."""
    return part.clone() if part.untyped_storage().nbytes() > part.nbytes else part


def _refuse(requested: bool, what: str) -> None:
    if requested:
        raise NotImplementedError(f"packed attention does not implement {what}")


def _merge(own: Tensor, own_lse: Tensor, shared: Tensor, shared_lse: Tensor) -> Tensor:
    weight = torch.sigmoid(own_lse.float() - shared_lse.float()).unsqueeze(-1)
    if own.dtype in (torch.bfloat16, torch.float16):
        return torch.lerp(shared.float(), own.float(), weight).to(own.dtype)
    return torch.lerp(shared, own, weight.to(own.dtype))


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
