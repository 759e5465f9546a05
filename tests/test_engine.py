"""The engine: whatever is packed, ordered or cut in pieces, the sums are those of plain transformers calls."""

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_models import CONFIGS, VOCABULARY, WINDOW, build_model

from nuggets.scoring.attention import _attend_plainly, attend
from nuggets.scoring.door import Continuation, LanguageModel
from nuggets.scoring.engine import PackedEngine, PlainEngine, open_engine

PACKED = [family for family in CONFIGS if family != "gemma2"]
EXACT = 1e-4  # nats per response token, float32


@lru_cache
def plain_model(family: str) -> Any:
    """The same weights as `build_model(family)`, never touched by an engine."""
    return build_model(family, attention="eager")


@lru_cache
def engine_of(family: str, token_budget: int = 4096) -> LanguageModel:
    return open_engine(build_model(family), token_budget=token_budget)


def plain_sums(model: Any, prefix: Sequence[int], continuations: Sequence[Continuation]) -> NDArray[np.float64]:
    """The definition, one pair at a time, written without any of the engine's code."""
    sums = []
    for item in continuations:
        ids = torch.tensor([[*prefix, *item.ids]])
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
        first = len(prefix) + item.response_start
        sums.append(sum(log_probs[place - 1, ids[0, place]].item() for place in range(first, ids.shape[1])))
    return np.array(sums, dtype=np.float64)


def random_ids(generator: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(generator.integers(0, VOCABULARY, count).tolist())


def random_continuations(seed: int, lengths: Sequence[tuple[int, int]]) -> list[Continuation]:
    """Continuations of the given (tokens, response_start)."""
    generator = np.random.default_rng(seed)
    return [Continuation(random_ids(generator, length), start) for length, start in lengths]


def random_prefixes(seed: int, lengths: Sequence[int]) -> list[tuple[int, ...]]:
    generator = np.random.default_rng(seed)
    return [random_ids(generator, length) for length in lengths]


def assert_close(
    found: NDArray[np.float64],
    expected: NDArray[np.float64],
    continuations: Sequence[Continuation],
    per_token: float = EXACT,
) -> None:
    tokens = np.array([item.response_tokens for item in continuations])
    assert found.shape == expected.shape == tokens.shape
    assert (found[tokens == 0] == 0.0).all()
    difference = np.abs(found - expected) / np.maximum(tokens, 1)
    assert difference.max(initial=0.0) <= per_token, difference


# Equal and unequal lengths, one response token, the whole text but its first token, nothing left of the response.
MIXED = random_continuations(1, [(9, 4), (5, 4), (9, 1), (14, 6), (3, 3), (14, 13), (9, 4), (2, 1), (6, 9), (21, 5)])
PREFIXES = random_prefixes(2, [0, 1, 12, 3, 33, 12])


@pytest.mark.parametrize("family", CONFIGS)
def test_sums_are_those_of_one_plain_forward_pass_per_pair(family: str) -> None:
    rows = list(engine_of(family).log_prob_sums(PREFIXES, MIXED))
    assert len(rows) == len(PREFIXES)
    for prefix, row in zip(PREFIXES, rows, strict=True):
        assert row.dtype == np.float64
        assert_close(row, plain_sums(plain_model(family), prefix, MIXED), MIXED)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_demonstration_in_front_changes_the_sums(family: str) -> None:
    """Otherwise the test above would pass for an engine that forgets the prefix and a model that ignores it."""
    without, behind = engine_of(family).log_prob_sums([(), PREFIXES[2]], MIXED)
    scored = np.array([item.response_tokens > 0 for item in MIXED])
    assert (np.abs(without - behind)[scored] > 0.01).all()


@pytest.mark.parametrize("token_budget", [1, 7, 64, 4096])
@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "gpt_neox"])
def test_the_token_budget_never_changes_a_sum(family: str, token_budget: int) -> None:
    for prefix, row in zip(PREFIXES, engine_of(family, token_budget).log_prob_sums(PREFIXES, MIXED), strict=True):
        assert_close(row, plain_sums(plain_model(family), prefix, MIXED), MIXED)


@pytest.mark.parametrize("item", MIXED)
def test_a_single_continuation(item: Continuation) -> None:
    for prefix, row in zip(PREFIXES, engine_of("llama_grouped").log_prob_sums(PREFIXES, [item]), strict=True):
        assert_close(row, plain_sums(plain_model("llama_grouped"), prefix, [item]), [item])


@pytest.mark.parametrize("token_budget", [64, 4096])
def test_200_continuations(token_budget: int) -> None:
    generator = np.random.default_rng(3)
    shapes = [(int(length), int(generator.integers(1, length + 2))) for length in generator.integers(2, 40, 200)]
    continuations = random_continuations(4, shapes)
    (prefix,) = random_prefixes(5, [25])
    (row,) = engine_of("llama_grouped", token_budget).log_prob_sums([prefix], continuations)
    assert_close(row, plain_sums(plain_model("llama_grouped"), prefix, continuations), continuations)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_continuations_without_response_tokens_sum_to_exactly_0(family: str) -> None:
    nothing_left = random_continuations(6, [(4, 4), (4, 7), (1, 1)])
    for row in engine_of(family).log_prob_sums(PREFIXES, nothing_left):
        assert row.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_no_prefixes_give_no_rows_and_no_continuations_give_empty_rows(family: str) -> None:
    assert list(engine_of(family).log_prob_sums([], MIXED)) == []
    assert [row.shape for row in engine_of(family).log_prob_sums(PREFIXES, [])] == [(0,)] * len(PREFIXES)


@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "mistral_window", "gemma2"])
def test_the_order_of_continuations_and_prefixes_never_changes_a_sum(family: str) -> None:
    generator = np.random.default_rng(7)
    expected = np.array(list(engine_of(family).log_prob_sums(PREFIXES, MIXED)))
    for _ in range(3):
        across, down = generator.permutation(len(MIXED)), generator.permutation(len(PREFIXES))
        shuffled = [MIXED[index] for index in across]
        rows = engine_of(family).log_prob_sums([PREFIXES[index] for index in down], shuffled)
        for row, index in zip(rows, down, strict=True):
            assert_close(row, expected[index, across], shuffled, per_token=1e-5)


def test_company_in_a_pack_never_changes_a_sum() -> None:
    together = next(engine_of("llama_grouped").log_prob_sums([PREFIXES[2]], MIXED))
    alone = [next(engine_of("llama_grouped").log_prob_sums([PREFIXES[2]], [item]))[0] for item in MIXED]
    assert_close(together, np.array(alone), MIXED, per_token=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral_window", "gemma2"])
def test_a_row_is_yielded_before_the_next_prefix_is_asked_for(family: str) -> None:
    asked: list[int] = []

    def prefixes() -> Iterator[tuple[int, ...]]:
        for index, prefix in enumerate(PREFIXES):
            asked.append(index)
            yield prefix

    rows = engine_of(family).log_prob_sums(prefixes(), MIXED)
    next(rows)
    next(rows)
    assert asked == [0, 1]


shapes = st.lists(st.tuples(st.integers(1, 24), st.integers(1, 26)), min_size=1, max_size=8)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=3), shapes, st.integers(1, 90), st.integers(0, 9999))
@settings(max_examples=25, deadline=None)
def test_any_mix_of_lengths_and_budget(
    prefix_lengths: list[int], shapes: list[tuple[int, int]], token_budget: int, seed: int
) -> None:
    prefixes, continuations = random_prefixes(seed, prefix_lengths), random_continuations(seed + 1, shapes)
    shared = engine_of("llama_grouped")
    assert isinstance(shared, PackedEngine)
    engine = PackedEngine(shared.model, token_budget=token_budget, context=None)
    for prefix, row in zip(prefixes, engine.log_prob_sums(prefixes, continuations), strict=True):
        assert_close(row, plain_sums(plain_model("llama_grouped"), prefix, continuations), continuations)


@pytest.mark.parametrize("family", PACKED)
def test_families_that_are_scored_packed(family: str) -> None:
    assert type(engine_of(family)) is PackedEngine


def test_soft_capped_attention_is_scored_one_pair_at_a_time_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="nuggets"):
        engine = open_engine(build_model("gemma2"))
    assert type(engine) is PlainEngine
    (message,) = caplog.messages
    assert "Gemma2ForCausalLM can't be scored packed" in message
    assert "one pair per forward pass" in message


def test_no_warning_where_packing_is_right(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="nuggets"):
        open_engine(build_model("qwen2"))
    assert caplog.messages == []


AROUND_THE_WINDOW = [WINDOW - 22, WINDOW - 21, WINDOW - 20, WINDOW, WINDOW + 1, 3 * WINDOW, 2]


@pytest.mark.parametrize("family", ["mistral_window", "gemma2", "phi3_longrope"])
def test_sequences_around_and_beyond_the_window(family: str) -> None:
    """The longest continuation has 21 tokens: totals of one below the window, the window, one above, and far above."""
    prefixes = random_prefixes(8, AROUND_THE_WINDOW)
    for prefix, row in zip(prefixes, engine_of(family).log_prob_sums(prefixes, MIXED), strict=True):
        assert_close(row, plain_sums(plain_model(family), prefix, MIXED), MIXED)


def test_a_continuation_beyond_the_window_without_any_prefix() -> None:
    continuations = random_continuations(9, [(2 * WINDOW, 5), (6, 2)])
    (row,) = engine_of("mistral_window").log_prob_sums([()], continuations)
    assert_close(row, plain_sums(plain_model("mistral_window"), (), continuations), continuations)


def test_the_window_shows_in_these_tests() -> None:
    """The two models have the same weights: without this difference, a window that is ignored would not be seen."""
    (prefix,) = random_prefixes(10, [3 * WINDOW])
    windowed, unlimited = (plain_sums(plain_model(name), prefix, MIXED) for name in ("mistral_window", "mistral"))
    assert np.abs(windowed - unlimited).max() > 1.0


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_weights_that_are_not_numbers_give_sums_that_are_not_finite(family: str) -> None:
    model = build_model(family)
    with torch.no_grad():
        next(model.model.layers[1].mlp.parameters())[3, 5] = float("nan")
    (row,) = open_engine(model).log_prob_sums([PREFIXES[2]], MIXED)
    scored = np.array([item.response_tokens > 0 for item in MIXED])
    assert not np.isfinite(row[scored]).any()


def test_a_model_in_training_mode_is_scored_without_its_dropout() -> None:
    model = build_model("gpt2").train()
    (row,) = open_engine(model).log_prob_sums([PREFIXES[2]], MIXED)
    assert_close(row, plain_sums(plain_model("gpt2"), PREFIXES[2], MIXED), MIXED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["llama_grouped", "gemma2"])
def test_other_number_formats_stay_near_float32(family: str, dtype: torch.dtype) -> None:
    engine = open_engine(build_model(family).to(dtype))
    assert isinstance(engine, PlainEngine if family == "gemma2" else PackedEngine)
    assert engine.model.dtype == dtype
    for prefix, row in zip(PREFIXES, engine.log_prob_sums(PREFIXES, MIXED), strict=True):
        assert_close(row, plain_sums(plain_model(family), prefix, MIXED), MIXED, per_token=0.15)


def random_heads(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SHAPES = [(1, 1, True), (7, 7, True), (150, 150, True), (7, 7, False), (7, 40, False), (40, 7, False), (150, 1, False)]


@pytest.mark.parametrize("key_heads", [1, 2, 8])
@pytest.mark.parametrize(("queries", "keys", "causal"), SHAPES)
def test_attention_of_the_cpu_kernel_is_that_of_the_formula(
    queries: int, keys: int, causal: bool, key_heads: int
) -> None:
    query = random_heads(0, 3, 8, queries, 16)
    key, value = random_heads(1, 3, key_heads, keys, 16), random_heads(2, 3, key_heads, keys, 16)
    out, lse = attend(query, key, value, causal=causal, scale=0.7)
    expected_out, expected_lse = _attend_plainly(query, key, value, causal=causal, scale=0.7)
    assert out.shape == (3, 8, queries, 16)
    assert lse.shape == (3, 8, queries)
    torch.testing.assert_close(out, expected_out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, expected_lse, atol=1e-5, rtol=1e-5)


def test_attention_and_its_log_sum_exp_of_numbers_worked_out_by_hand() -> None:
    """One head of size 1; query 1 sees keys 0 and ln 3, which weigh 1 and 3; causal query 0 sees only the first."""
    query = torch.ones(1, 1, 2, 1)
    key = torch.tensor([0.0, np.log(3)], dtype=torch.float32).view(1, 1, 2, 1)
    value = torch.tensor([10.0, 20.0]).view(1, 1, 2, 1)
    for attention in (attend, _attend_plainly):
        out, lse = attention(query, key, value, causal=True, scale=1.0)
        torch.testing.assert_close(out.flatten(), torch.tensor([10.0, 17.5]))
        torch.testing.assert_close(lse.flatten(), torch.tensor([0.0, float(np.log(4))]))
