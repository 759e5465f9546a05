"""The algorithms that the engine is measured against, each written as its users would write it.

All take a transformers model as it was loaded, with the attention that transformers chose, and give the summed
log-probability (nats) of every anchor's response behind every prefix: float64 `(prefixes, anchors)`.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from nuggets.engine.interface import Continuation

BATCH = 10  # of the released program; the evaluation harnesses' users choose sizes like this one, too
RELEASED_PADDING = 200  # tokens to which the released program pads every anchor


@torch.inference_mode()
def released(model: Any, prefixes: Sequence[Sequence[int]], anchors: Sequence[Continuation]) -> NDArray[np.float64]:
    """The authors' program: the demonstration once, its keys and values expanded over batches of padded anchors.

    Logits and log-softmax are made for every token, padding included, and read off at the responses.
    """
    longest = max(RELEASED_PADDING, *(len(item.ids) for item in anchors))
    rows = [(item.ids, item.response_start) for item in anchors]
    batches = [_right_padded(part, longest, model.device) for part in _batches(rows)]
    table = []
    for prefix in prefixes:
        ids = torch.tensor([prefix], device=model.device)
        demonstration = model(input_ids=ids, use_cache=True).past_key_values
        sums = []
        for batch in batches:
            count = len(batch.ids)
            seen = torch.ones(count, len(prefix), dtype=torch.long, device=model.device)
            logits = model(
                input_ids=batch.ids,
                attention_mask=torch.cat([seen, batch.mask], dim=1),
                past_key_values=_expanded(demonstration, count),
                use_cache=True,
            ).logits
            sums.append(_response_sums(logits, batch))
        table.append(torch.cat(sums))
    return torch.stack(table).cpu().numpy()


@torch.inference_mode()
def pairs(model: Any, prefixes: Sequence[Sequence[int]], anchors: Sequence[Continuation]) -> NDArray[np.float64]:
    """One concatenated pair per forward pass: the definition, which the other algorithms' sums are compared with."""
    table = [[_pair_sum(model, prefix, item) for item in anchors] for prefix in prefixes]
    return torch.tensor(table, dtype=torch.float64).numpy()


@torch.inference_mode()
def padded(model: Any, prefixes: Sequence[Sequence[int]], anchors: Sequence[Continuation]) -> NDArray[np.float64]:
    """Concatenated pairs of all candidates in batches sorted by length, as evaluation harnesses do.

    They pad on the right and give a causal model no mask: no scored token sees the padding behind it, and attention
    without a mask is the faster one.
    """
    rows = [((*prefix, *item.ids), len(prefix) + item.response_start) for prefix in prefixes for item in anchors]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
    sums = []
    for part in _batches([rows[index] for index in order]):
        batch = _right_padded(part, len(part[0][0]), model.device)
        sums.append(_response_sums(model(input_ids=batch.ids, use_cache=False).logits, batch))
    table = np.empty(len(rows))
    table[order] = torch.cat(sums).cpu().numpy()
    return table.reshape(len(prefixes), len(anchors))


def _pair_sum(model: Any, prefix: Sequence[int], item: Continuation) -> float:
    ids = torch.tensor([[*prefix, *item.ids]], device=model.device)
    start = len(prefix) + item.response_start
    logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]  # those at a token predict the next one
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    return float(log_probs.gather(1, ids[0, start:, None]).double().sum())


@dataclass(frozen=True, slots=True)
class _Batch:
    """Right-padded rows, each `(rows, tokens)`: ids, 1 for tokens and 0 for padding, True for response tokens."""

    ids: Tensor
    mask: Tensor
    response: Tensor


_Row = tuple[Sequence[int], int]  # token ids, and the index at which the response starts


def _batches(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _right_padded(rows: Sequence[_Row], length: int, device: torch.device) -> _Batch:
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row, _ in rows], device=device)
    ends = torch.tensor([len(row) for row, _ in rows], device=device)[:, None]
    starts = torch.tensor([start for _, start in rows], device=device)[:, None]
    places = torch.arange(length, device=device)[None]
    return _Batch(ids, (places < ends).long(), (places >= starts) & (places < ends))


def _expanded(cache: DynamicCache, count: int) -> DynamicCache:
    """The demonstration's keys and values as those of a whole batch: views, which a forward pass appends to."""
    expanded = copy.copy(cache)
    expanded.layers = []
    for layer in cache.layers:
        view = copy.copy(layer)
        view.keys, view.values = (tensor.expand(count, -1, -1, -1) for tensor in (layer.keys, layer.values))
        expanded.layers.append(view)
    return expanded


def _response_sums(logits: Tensor, batch: _Batch) -> Tensor:
    """Sums `(rows,)` in float64 from the log-softmax over everything: `logits` (rows, tokens, vocabulary)."""
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    chosen = log_probs[:, :-1].gather(2, batch.ids[:, 1:, None]).squeeze(2)
    return chosen.masked_fill(~batch.response[:, 1:], 0.0).double().sum(dim=1)
