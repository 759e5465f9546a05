"""The attention kernels against the formula: one sequence, batches of equal ones, and pieces laid end to end."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nuggets.engine.attention_kernels import (
    Kernel,
    Pieces,
    attend_batch,
    attend_by_formula,
    by_equal_lengths,
    by_variable_length,
    equal_head_sizes,
    kernels_for,
)

CPU = torch.device("cpu")
HEADS = 8
SCALE = 0.7


def random_heads(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def as_a_model_makes_them(heads: Tensor) -> Tensor:
    """The same numbers as a view of (1, tokens, heads, size), which is how transformers hands them over."""
    return heads.transpose(1, 2).contiguous().transpose(1, 2)


def test_attention_and_its_log_sum_exp_of_numbers_worked_out_by_hand() -> None:
    """One head of size 1; query 1 sees keys 0 and ln 3, which weigh 1 and 3; causal query 0 sees only the first."""
    query = torch.ones(1, 1, 2, 1)
    key = torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    value = torch.tensor([10.0, 20.0]).view(1, 1, 2, 1)
    for attention in (attend_batch, attend_by_formula):
        out, lse = attention(query, key, value, causal=True, scale=1.0)
        torch.testing.assert_close(out.flatten(), torch.tensor([10.0, 17.5]))
        torch.testing.assert_close(lse.flatten(), torch.tensor([0.0, math.log(4)]))


SHAPES = [(1, 1, True), (7, 7, True), (150, 150, True), (7, 7, False), (7, 40, False), (40, 7, False), (150, 1, False)]


@pytest.mark.parametrize("key_heads", [1, 2, 8])
@pytest.mark.parametrize(("queries", "keys", "causal"), SHAPES)
def test_attention_of_the_cpu_kernel_is_that_of_the_formula(
    queries: int, keys: int, causal: bool, key_heads: int
) -> None:
    query = random_heads(0, 3, HEADS, queries, 16)
    key, value = random_heads(1, 3, key_heads, keys, 16), random_heads(2, 3, key_heads, keys, 16)
    out, lse = attend_batch(query, key, value, causal=causal, scale=SCALE)
    expected_out, expected_lse = attend_by_formula(query, key, value, causal=causal, scale=SCALE)
    assert out.shape == (3, HEADS, queries, 16)
    assert lse.shape == (3, HEADS, queries)
    torch.testing.assert_close(out, expected_out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, expected_lse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "within"), [(torch.bfloat16, 0.02), (torch.float16, 0.003), (torch.float64, 1e-6)])
def test_attention_in_other_number_formats_is_near_that_in_float32(dtype: torch.dtype, within: float) -> None:
    query, key, value = random_heads(0, 2, 4, 9, 16), random_heads(1, 2, 2, 9, 16), random_heads(2, 2, 2, 9, 16)
    expected_out, expected_lse = attend_by_formula(query, key, value, causal=True, scale=0.25)
    out, lse = attend_batch(query.to(dtype), key.to(dtype), value.to(dtype), causal=True, scale=0.25)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    torch.testing.assert_close(out.float(), expected_out, atol=within, rtol=within)
    torch.testing.assert_close(lse, expected_lse, atol=within, rtol=within)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tile_entries", [1, 100, 999])
def test_the_formula_in_tiles_is_the_formula_at_once(tile_entries: int, causal: bool) -> None:
    """In float64, where both are exact; a row of logits is 3 x 4 x 30 entries, so that 999 are two rows and more."""
    query, key, value = (random_heads(seed, 3, heads, 30, 16).double() for seed, heads in ((0, 4), (1, 2), (2, 2)))
    found = attend_by_formula(query, key, value, causal=causal, scale=SCALE, tile_entries=tile_entries)
    key, value = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
    logits = SCALE * query @ key.transpose(-1, -2)
    if causal:
        logits = logits.masked_fill(torch.ones(30, 30).triu(1).bool(), float("-inf"))
    torch.testing.assert_close(found[0], logits.softmax(-1) @ value, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[1], logits.logsumexp(-1).float(), atol=1e-6, rtol=1e-6)


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that is made inside."""

    entries = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        made = function(*arguments, **(named or {}))
        if isinstance(made, Tensor):
            self.entries = max(self.entries, made.numel())
        return made


def test_the_formula_never_has_all_logits_in_memory() -> None:
    """4 heads, 500 queries and 300 keys are 600,000 logits."""
    query, key = random_heads(0, 1, 4, 500, 16).half(), random_heads(1, 1, 1, 300, 16).half()
    with Largest() as largest:
        attend_by_formula(query, key, key, causal=False, scale=SCALE, tile_entries=40_000)
    assert largest.entries <= 40_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_the_formula_are_not_rounded_to_16_bits(dtype: torch.dtype) -> None:
    """Logits of some tens, as large models have them; their log-sum-exp decides how demonstrations are weighed."""
    query, key, value = (3 * random_heads(seed, 1, 4, 60, 64).to(dtype) for seed in range(3))
    _, lse = attend_by_formula(query, key, value, causal=True, scale=0.125)
    _, expected = attend_by_formula(query.double(), key.double(), value.double(), causal=True, scale=0.125)
    torch.testing.assert_close(lse, expected, atol=1e-4, rtol=0)
    rounded = (query @ key.transpose(-1, -2)).float().mul_(0.125).masked_fill(torch.ones(60, 60).triu(1).bool(), -1e9)
    assert (rounded.logsumexp(-1) - expected).abs().max() > 0.005  # what the line above would find otherwise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("size", "value_size"), [(24, 16), (16, 24)])
def test_heads_of_values_may_have_a_size_of_their_own(size: int, value_size: int, dtype: torch.dtype) -> None:
    for pieces in (
        Pieces((3, 3, 8), (3, 3, 8), causal=True),
        Pieces((5, 9), (9, 5), causal=False),
        causal_pieces([(14, 14)], 0),
    ):
        query, key = (random_heads(seed, 1, HEADS, 14, size).to(dtype) for seed in (0, 1))
        value = random_heads(2, 1, HEADS, 14, value_size).to(dtype)
        out, lse = by_equal_lengths(pieces, CPU)(*map(as_a_model_makes_them, (query, key, value)), 0.2)
        assert out.shape == (1, HEADS, 14, value_size)
        start = key_start = 0
        for queries, keys in zip(pieces.queries, pieces.keys, strict=True):
            here, there = slice(start, start + queries), slice(key_start, key_start + keys)
            expected, expected_lse = attend_by_formula(
                query[:, :, here].double(),
                key[:, :, there].double(),
                value[:, :, there].double(),
                causal=pieces.causal,
                scale=0.2,
            )
            within = 1e-5 if dtype == torch.float32 else 0.02
            torch.testing.assert_close(out[:, :, here].double(), expected, atol=within, rtol=within)
            torch.testing.assert_close(lse[:, :, here], expected_lse, atol=within, rtol=within)
            start, key_start = start + queries, key_start + keys


def test_zeros_behind_heads_change_neither_logits_nor_outputs() -> None:
    query, key, value = random_heads(0, 1, 2, 9, 20), random_heads(1, 1, 1, 9, 20), random_heads(2, 1, 1, 9, 12)
    padded = equal_head_sizes(query, key, value, multiple_of=8)
    assert [part.shape[-1] for part in padded] == [24, 24, 24]
    out, lse = attend_by_formula(*padded, causal=True, scale=SCALE)
    expected, expected_lse = attend_by_formula(query, key, value, causal=True, scale=SCALE)
    torch.testing.assert_close(out[..., :12], expected)
    torch.testing.assert_close(lse, expected_lse)
    same = equal_head_sizes(query, key, key)
    assert all(part is given for part, given in zip(same, (query, key, key), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_too_large_for_flash_attention_do_without_it(dtype: torch.dtype) -> None:
    """Of these layers only: what serves them needs no GPU, which is why this test does not either."""
    pieces = Pieces((3, 3, 8), (3, 3, 8), causal=True, key_start=2)
    query, key = (random_heads(seed, 1, 2, length, 264).to(dtype) for seed, length in ((0, 14), (1, 16)))
    found = by_variable_length(pieces, CPU)(query, key, key, 0.1)
    expected = by_equal_lengths(pieces, CPU)(query, key, key, 0.1)
    torch.testing.assert_close(found, expected)


def assert_each_piece_is_attended_to_alone(
    kernel: Kernel, pieces: Pieces, *, key_heads: int, keys_behind: int, device: torch.device, dtype: torch.dtype
) -> None:
    """By the formula, piece by piece; keys in front of the first piece and behind the last must not be seen."""
    all_keys = pieces.key_start + sum(pieces.keys) + keys_behind
    query = random_heads(0, 1, HEADS, sum(pieces.queries), 16).to(device, dtype)
    key, value = (random_heads(seed, 1, key_heads, all_keys, 16).to(device, dtype) for seed in (1, 2))
    key[:, :, : pieces.key_start] = 100.0
    key[:, :, all_keys - keys_behind :] = 100.0
    out, lse = kernel(pieces, device)(*map(as_a_model_makes_them, (query, key, value)), SCALE)
    assert out.shape == query.shape
    assert lse.shape == query.shape[:-1]
    assert lse.dtype == torch.float32
    within = 1e-5 if dtype == torch.float32 else 0.02
    query_start, key_start = 0, pieces.key_start
    for queries, keys in zip(pieces.queries, pieces.keys, strict=True):
        query_stop, key_stop = query_start + queries, key_start + keys
        expected_out, expected_lse = attend_by_formula(
            query[:, :, query_start:query_stop].float(),
            key[:, :, key_start:key_stop].float(),
            value[:, :, key_start:key_stop].float(),
            causal=pieces.causal,
            scale=SCALE,
        )
        torch.testing.assert_close(out[:, :, query_start:query_stop].float(), expected_out, atol=within, rtol=within)
        torch.testing.assert_close(lse[:, :, query_start:query_stop], expected_lse, atol=within, rtol=within)
        query_start, key_start = query_stop, key_stop


# Runs of pieces that are equal, as lengths sorted by lay_out give them: (how many, queries, keys).
some_pieces = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6
).map(lambda runs: [(queries, keys) for count, queries, keys in runs for _ in range(count)])
some_heads = st.sampled_from([1, 2, 8])


def causal_pieces(lengths: Sequence[tuple[int, int]], key_start: int) -> Pieces:
    own = tuple(queries for queries, _ in lengths)
    return Pieces(own, own, causal=True, key_start=key_start)


def full_pieces(lengths: Sequence[tuple[int, int]], key_start: int) -> Pieces:
    return Pieces(tuple(q for q, _ in lengths), tuple(k for _, k in lengths), causal=False, key_start=key_start)


@given(some_pieces, st.booleans(), some_heads, st.integers(0, 9), st.integers(0, 5))
def test_pieces_by_equal_lengths_are_attended_to_as_if_each_were_alone(
    lengths: list[tuple[int, int]], causal: bool, key_heads: int, key_start: int, keys_behind: int
) -> None:
    pieces = (causal_pieces if causal else full_pieces)(lengths, key_start)
    assert_each_piece_is_attended_to_alone(
        by_equal_lengths, pieces, key_heads=key_heads, keys_behind=keys_behind, device=CPU, dtype=torch.float32
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pieces_by_equal_lengths_in_16_bits(dtype: torch.dtype) -> None:
    for pieces in (
        Pieces((3, 3, 8), (3, 3, 8), causal=True, key_start=2),
        Pieces((5, 7), (9, 4), causal=False, key_start=2),
    ):
        assert_each_piece_is_attended_to_alone(
            by_equal_lengths, pieces, key_heads=2, keys_behind=1, device=CPU, dtype=dtype
        )


def test_one_prepared_kernel_serves_all_layers_whatever_their_heads() -> None:
    attend = by_equal_lengths(Pieces((2, 3), (4, 4), causal=False), CPU)
    for key_heads in (1, 4):
        query, key = random_heads(3, 1, 4, 5, 8), random_heads(4, 1, key_heads, 8, 8)
        out, _ = attend(query, key, key, SCALE)
        expected, _ = attend_by_formula(query[:, :, 2:], key[:, :, 4:], key[:, :, 4:], causal=False, scale=SCALE)
        torch.testing.assert_close(out[:, :, 2:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu_pieces_of_equal_lengths_are_all_there_is(dtype: torch.dtype) -> None:
    assert kernels_for(CPU, dtype) == (by_equal_lengths,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@given(some_pieces, st.booleans(), some_heads, st.integers(0, 9), st.integers(0, 5))
def test_pieces_of_variable_length_are_attended_to_as_if_each_were_alone(
    lengths: list[tuple[int, int]], causal: bool, key_heads: int, key_start: int, keys_behind: int
) -> None:
    pieces = (causal_pieces if causal else full_pieces)(lengths, key_start)
    assert_each_piece_is_attended_to_alone(
        by_variable_length,
        pieces,
        key_heads=key_heads,
        keys_behind=keys_behind,
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
    )
