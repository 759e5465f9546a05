"""Attention of many short pieces laid end to end, with the log-sum-exp by which two results are merged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, groupby

import torch
from torch import Tensor
from torch.nn.functional import pad

_FLASH_HEAD_SIZE = 256  # the largest that flash-attention supports
_TILE_ENTRIES = 1 << 26  # logits in memory at a time where the formula is used: 256 MiB in float32


@dataclass(frozen=True, slots=True)
class Pieces:
    """Lengths of query pieces and of key pieces (from `key_start`): query piece i attends to key piece i.

    Causal: query j of a piece attends to keys 0 to j of its piece.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    causal: bool
    key_start: int = 0


@dataclass(frozen=True, slots=True)
class Attend:
    """Attention of pieces, prepared for all layers of a forward pass.

    `call`: query (1, heads, tokens, size), key and value (1, key heads, key tokens, size), scale -> output like query,
    and its log-sum-exp (1, heads, tokens) in float32.
    """

    pieces: Pieces
    call: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention output and its log-sum-exp."""
        return self.call(query, key, value, scale)


Kernel = Callable[[Pieces, torch.device], Attend]  # prepares what all layers of a forward pass share


def longest_reach(own: Pieces, shared: Pieces | None) -> int:
    """Tokens of the longest sequence: those of a piece and of the demonstration in front of it."""
    if shared is None:
        return max(own.keys)
    longest = start = 0
    demonstrations = zip(accumulate(shared.queries), shared.keys, strict=True)
    end, keys = next(demonstrations)
    for length in own.queries:
        while start >= end:
            end, keys = next(demonstrations)
        longest = max(longest, length + keys)
        start += length
    return longest


def kernels_for(device: torch.device, dtype: torch.dtype) -> tuple[Kernel, ...]:
    """The kernels that may suit a model, the fastest first."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        return by_variable_length, by_equal_lengths
    return (by_equal_lengths,)


def by_variable_length(pieces: Pieces, device: torch.device) -> Attend:
    """All pieces in one call of the flash-attention kernel for sequences of variable length (GPU, 16 bits).

    Layers whose heads are too large for it use by_equal_lengths; other layers of the same model do not.

    This is the kernel behind torch.nn.attention.varlen, called as that module calls it, because the module's signature
    differs between the supported versions of torch.
    """
    query_ends, key_ends = (
        torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        for lengths in (pieces.queries, pieces.keys)
    )
    longest_query, longest_key = max(pieces.queries), max(pieces.keys)
    keys = slice(pieces.key_start, pieces.key_start + sum(pieces.keys))

    @cache
    def for_large_heads() -> Attend:
        return by_equal_lengths(pieces, device)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        value_size = value.shape[-1]
        if max(query.shape[-1], value_size) > _FLASH_HEAD_SIZE:
            return for_large_heads()(query, key, value, scale)
        query, key, value = equal_head_sizes(query, key[:, :, keys], value[:, :, keys], multiple_of=8)
        out, lse = torch.ops.aten._flash_attention_forward(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            query_ends,
            key_ends,
            longest_query,
            longest_key,
            0.0,
            pieces.causal,
            False,
            scale=scale,
        )[:2]
        return out[..., :value_size].transpose(0, 1)[None], lse[None]

    return Attend(pieces, attend)


def by_equal_lengths(pieces: Pieces, device: torch.device) -> Attend:
    """Neighbouring pieces of equal lengths form a batch; one call per batch."""
    batches = list(_batches(pieces))

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        if len(batches) == 1 and batches[0].count == 1:
            keys = slice(batches[0].key_start, batches[0].key_start + batches[0].key_length)
            return attend_batch(query, key[:, :, keys], value[:, :, keys], causal=pieces.causal, scale=scale)
        # In memory as (1, tokens, heads, size), the order that models use next. The head size is that of the values.
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1]).transpose(1, 2)
        lse = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        for batch in batches:
            queries = slice(batch.query_start, batch.query_start + batch.count * batch.query_length)
            keys = slice(batch.key_start, batch.key_start + batch.count * batch.key_length)
            part, part_lse = attend_batch(
                _split(query[:, :, queries], batch.count),
                _split(key[:, :, keys], batch.count),
                _split(value[:, :, keys], batch.count),
                causal=pieces.causal,
                scale=scale,
            )
            _split(out[:, :, queries], batch.count).copy_(part)
            _split(lse[:, :, queries].unsqueeze(-1), batch.count).copy_(part_lse.unsqueeze(-1))
        return out, lse

    return Attend(pieces, attend)


def attend_batch(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention output and its log-sum-exp `(batch, heads, queries)`; `key` may have fewer heads than `query`."""
    if query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16):
        # The kernel behind scaled_dot_product_attention on CPU; the public function does not return the log-sum-exp.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *equal_head_sizes(query, key, value), 0.0, causal, scale=scale
        )
        return out[..., : value.shape[-1]], lse
    return attend_by_formula(query, key, value, causal=causal, scale=scale)


def equal_head_sizes(
    query: Tensor, key: Tensor, value: Tensor, *, multiple_of: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """All three padded to one head size, as kernels require: zeros change neither logits nor outputs."""
    size = -(-max(query.shape[-1], value.shape[-1]) // multiple_of) * multiple_of
    query, key, value = (
        part if part.shape[-1] == size else pad(part, (0, size - part.shape[-1])) for part in (query, key, value)
    )
    return query, key, value


def attend_by_formula(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float, tile_entries: int = _TILE_ENTRIES
) -> tuple[Tensor, Tensor]:
    """attend_batch by the formula, a tile of queries at a time; logits and softmax in float32 or better."""
    batch, heads, queries, _ = query.shape
    out = query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
    lse = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
    # Rounded to 16 bits, a logit of 30 is off by a tenth.
    exact = torch.promote_types(query.dtype, torch.float32)
    key = key.to(exact)
    rows = max(1, tile_entries // (batch * heads * key.shape[2]))
    for start in range(0, queries, rows):
        tile = slice(start, min(start + rows, queries))
        visible = min(tile.stop, key.shape[2]) if causal else key.shape[2]
        out[:, :, tile], lse[:, :, tile] = _attend_tile(
            query[:, :, tile].to(exact),
            key[:, :, :visible],
            value[:, :, :visible],
            first=start if causal else None,
            scale=scale,
        )
    return out, lse


def _attend_tile(
    query: Tensor, key: Tensor, value: Tensor, *, first: int | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Causal if `first`, the index of the first of these queries, is given."""
    batch, heads, queries, size = query.shape
    key_heads, keys = key.shape[1:3]
    # Query heads that share a key head are stacked, so that keys are not repeated.
    grouped = query.reshape(batch, key_heads, -1, size)
    logits = (grouped @ key.transpose(-1, -2)).float().mul_(scale).view(batch, heads, queries, keys)
    if first is not None:
        ahead = torch.ones(queries, keys, dtype=torch.bool, device=query.device).triu_(first + 1)
        logits.masked_fill_(ahead, float("-inf"))
    lse = torch.logsumexp(logits, dim=-1)
    weights = logits.sub_(lse.unsqueeze(-1)).exp_().to(value.dtype).view(batch, key_heads, -1, keys)
    return (weights @ value).view(batch, heads, queries, -1), lse


@dataclass(frozen=True, slots=True)
class _Batch:
    count: int
    query_start: int
    query_length: int
    key_start: int
    key_length: int


def _batches(pieces: Pieces) -> Iterator[_Batch]:
    query_start, key_start = 0, pieces.key_start
    for (queries, keys), group in groupby(zip(pieces.queries, pieces.keys, strict=True)):
        count = len(list(group))
        yield _Batch(count, query_start, queries, key_start, keys)
        query_start += count * queries
        key_start += count * keys


def _split(tensor: Tensor, count: int) -> Tensor:
    """(1, heads, count * length, size) seen as (count, heads, length, size), without a copy."""
    heads, tokens, size = tensor.shape[1:]
    return tensor.view(heads, count, tokens // count, size).transpose(0, 1)
