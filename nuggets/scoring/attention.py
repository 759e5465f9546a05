"""Attention of packed continuations: each over its own tokens, and all over one shared demonstration in place.

The softmax over [demonstration; own tokens] is taken in two parts, each with its log-sum-exp, and put together:

    lse = log(exp(lse_shared) + exp(lse_own)),   out = out_shared * exp(lse_shared - lse) + out_own * exp(lse_own - lse)

so the demonstration's keys and values are neither copied per continuation nor computed twice. It is registered with
transformers as an attention implementation, which leaves the code of every model family as it is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from nuggets.scoring.packing import Segments

PACKED_ATTENTION = "nuggets_packed"

KeysValues = dict[nn.Module, tuple[Tensor, Tensor]]  # per attention layer, each (1, key heads, tokens, head size)


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What the attention layers have to know of the forward pass that they are in.

    `shared`: keys and values of the demonstration, if tokens stand in front. `record`: where to leave this pass's own
    keys and values, if it is the demonstration's.
    """

    segments: Sequence[Segments]
    shared: KeysValues | None = None
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
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention output `(1, tokens, heads, head size)`, by the signature of transformers' attention functions."""
    current = _current.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if current.record is not None:
        current.record[module] = (key, value)
    own, own_lse = _own_attention(query, key, value, current.segments, scale)
    if current.shared is not None:
        shared_key, shared_value = current.shared[module]
        shared, shared_lse = attend(query, shared_key, shared_value, causal=False, scale=scale)
        weight = torch.sigmoid(own_lse - shared_lse.float()).unsqueeze(-1).to(own.dtype)
        own = torch.lerp(shared, own, weight)
    return own.transpose(1, 2), None


def _own_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Segments], scale: float
) -> tuple[Tensor, Tensor]:
    """Causal attention within each continuation: output like `query`, and its log-sum-exp `(1, heads, tokens)`."""
    out = torch.empty_like(query)
    lse = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
    for item in segments:
        tokens = slice(item.start, item.start + item.count * item.length)
        q, k, v = (_as_batch(tensor[:, :, tokens], item) for tensor in (query, key, value))
        part, part_lse = attend(q, k, v, causal=True, scale=scale)
        _as_batch(out[:, :, tokens], item).copy_(part)
        _as_batch(lse[:, :, tokens].unsqueeze(-1), item).copy_(part_lse.unsqueeze(-1))
    return out, lse


def _as_batch(tensor: Tensor, item: Segments) -> Tensor:
    """(1, heads, count * length, size) seen as (count, heads, length, size), without a copy."""
    heads, _, size = tensor.shape[1:]
    return tensor.view(heads, item.count, item.length, size).transpose(0, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention output and its log-sum-exp `(batch, heads, queries)`; `key` may have fewer heads than `query`.

    Causal means that query i sees keys 0 to i.
    """
    if query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16):
        # The kernel behind scaled_dot_product_attention on CPU; the public function keeps the log-sum-exp to itself.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
        return out, lse
    return _attend_plainly(query, key, value, causal=causal, scale=scale)


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    batch, heads, queries, size = query.shape
    key_heads = key.shape[1]
    # Query heads that share a key head are stacked, so that keys are not repeated.
    grouped = query.reshape(batch, key_heads, -1, size)
    logits = (grouped @ key.transpose(-1, -2)).float().mul_(scale).view(batch, heads, queries, -1)
    if causal:
        ahead = torch.ones(queries, key.shape[2], dtype=torch.bool, device=query.device).triu_(1)
        logits.masked_fill_(ahead, float("-inf"))
    lse = torch.logsumexp(logits, dim=-1)
    weights = (logits - lse.unsqueeze(-1)).exp_().to(value.dtype).view(batch, key_heads, -1, key.shape[2])
    return (weights @ value).view(batch, heads, queries, -1), lse


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
