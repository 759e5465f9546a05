"""The engine on a GPU against the same weights on the CPU."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scored_pairs import (
    MIXED,
    PREFIXES,
    SAME_OPENING,
    assert_close,
    assert_only_wanted,
    expected_rows,
    per_token,
    plain_model,
    plain_rows,
    random_continuations,
    random_prefixes,
    random_wanted,
    rows_of,
)
from tiny_models import VOCABULARY, build_model
from transformers import AutoModelForCausalLM, LlamaConfig

from nuggets.engine.attention_kernels import by_equal_lengths, by_variable_length
from nuggets.engine.choose import open_engine
from nuggets.engine.packed import PackedEngine
from nuggets.engine.response_log_probs import response_log_probs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def build_llama() -> Any:
    """Heads of 16: the kernel for variable lengths wants a multiple of 8."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def packed_on_gpu(model: Any, **options: int) -> PackedEngine:
    engine = open_engine(model.to("cuda"), **options)
    assert isinstance(engine, PackedEngine)
    return engine


@pytest.mark.parametrize("continuations", [MIXED, SAME_OPENING], ids=["mixed", "same opening"])
def test_in_bfloat16_all_lengths_are_one_call_and_sums_are_near_float32_on_the_cpu(continuations: list) -> None:
    model = build_llama()
    expected = plain_rows(model, PREFIXES, continuations)
    model.bfloat16()
    plain_error = per_token(plain_rows(model, PREFIXES, continuations) - expected, continuations)
    engine = packed_on_gpu(model)
    assert engine.kernel is by_variable_length
    error = per_token(rows_of(engine, PREFIXES, continuations) - expected, continuations)
    assert np.sqrt((error**2).mean()) < 1.5 * np.sqrt((plain_error**2).mean())


@pytest.mark.parametrize("token_budget", [1, 40, 4096])
def test_in_bfloat16_many_prefixes_share_packs(token_budget: int) -> None:
    model = build_llama()
    prefixes = random_prefixes(6, [1 + index % 9 for index in range(40)])
    expected = plain_rows(model, prefixes, MIXED)
    engine = packed_on_gpu(model.bfloat16(), token_budget=token_budget)
    assert_close(rows_of(engine, prefixes, MIXED), expected, MIXED, within=0.1)


@pytest.mark.parametrize("token_budget", [1, 40, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_of_what_is_wanted(dtype: torch.dtype, token_budget: int) -> None:
    model = build_llama()
    prefixes = random_prefixes(6, [index % 9 for index in range(40)])
    wanted = random_wanted(7, len(prefixes), len(MIXED))
    expected = plain_rows(model, prefixes, MIXED)
    engine = packed_on_gpu(model.to(dtype), token_budget=token_budget)
    within = 1e-3 if dtype == torch.float32 else 0.1
    assert_only_wanted(rows_of(engine, prefixes, MIXED, wanted), expected, MIXED, wanted, within)


@pytest.mark.parametrize("kv_iter", [1, 2])
@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "qwen3"])
def test_in_float32_sums_are_those_of_the_cpu(family: str, kv_iter: int) -> None:
    engine = packed_on_gpu(build_model(family), kv_iter=kv_iter)
    assert engine.kernel is by_equal_lengths
    expected = rows_of(open_engine(build_model(family), kv_iter=kv_iter), PREFIXES, MIXED)
    if kv_iter == 1:
        assert_close(expected, expected_rows(family), MIXED)
    assert_close(rows_of(engine, PREFIXES, MIXED), expected, MIXED, within=1e-3)


def test_the_token_budget_that_is_found_is_more_than_the_least() -> None:
    assert 256 < packed_on_gpu(build_llama().bfloat16()).token_budget <= 32_768


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 24), st.integers(1, 26)), min_size=1, max_size=8),
    st.integers(1, 200),
)
def test_any_mix_of_lengths_and_budget_in_float32(
    prefix_lengths: list[int], shapes: list[tuple[int, int]], token_budget: int
) -> None:
    prefixes, continuations = random_prefixes(1, prefix_lengths), random_continuations(2, shapes)
    engine = packed_on_gpu(build_model("llama_grouped"), token_budget=token_budget)
    expected = plain_rows(plain_model("llama_grouped"), prefixes, continuations)
    assert_close(rows_of(engine, prefixes, continuations), expected, continuations, within=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_log_probs_are_those_of_a_softmax_over_the_whole_vocabulary(bias: bool, dtype: torch.dtype) -> None:
    """9000 rows are a full tile of rows and an incomplete one, each with several tiles of the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(16, 20_000, bias=bias).requires_grad_(False)
    head.weight.copy_(torch.randn(20_000, 16, generator=generator))
    head = head.to("cuda", dtype)
    hidden = torch.randn(9000, 16, generator=generator).to("cuda", dtype)
    targets = torch.randint(0, 20_000, (9000,), generator=generator).to("cuda")
    found = response_log_probs(head, hidden, targets)
    assert found.dtype == torch.float32
    logits = hidden.double() @ head.weight.double().T
    if bias:
        logits += head.bias.double()
    expected = logits.log_softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-5)


def test_memory_that_runs_out_halves_the_budget_and_changes_no_sum() -> None:
    model = build_llama()
    continuations = random_continuations(5, [(200, 180)] * 200)
    prefixes = random_prefixes(6, [20, 30, 40])
    expected = rows_of(packed_on_gpu(model, token_budget=2000), prefixes, continuations)
    engine = packed_on_gpu(model, token_budget=10**6)
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (96 << 20)) / total)
    try:
        found = rows_of(engine, prefixes, continuations)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.token_budget < 120_000
    assert_close(found, expected, continuations, within=1e-3)
