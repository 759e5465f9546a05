"""kv_iter against its definition, written with transformers' own cache and attention."""

from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from scored_pairs import (
    EXACT,
    MIXED,
    PREFIXES,
    SAME_OPENING,
    SCORED,
    Ids,
    Rows,
    assert_close,
    assert_only_wanted,
    equal_lengths,
    expected_rows,
    one_core,
    per_token,
    plain_model,
    plain_row,
    random_continuations,
    random_prefixes,
    random_wanted,
    rows_of,
)
from tiny_models import CONFIGS, WINDOW, build_model
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from nuggets.engine.attention import KeysValues
from nuggets.engine.choose import open_engine
from nuggets.engine.interface import Continuation, LanguageModel
from nuggets.engine.kv_refinement import refine
from nuggets.errors import InputError

FAMILIES = ["llama", "llama_grouped", "gpt2", "gpt_neox"]

Cache = list[tuple[Tensor, Tensor]]  # per layer: keys and values (batch, key heads, tokens, head size)


def as_cache(layers: Cache, batch: int = 1) -> DynamicCache:
    return DynamicCache([(key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1)) for key, value in layers])


def last_of(cache: DynamicCache, tokens: int) -> Cache:
    return [(layer.keys[:, :, -tokens:], layer.values[:, :, -tokens:]) for layer in cache.layers]


def refined_cache(model: Any, prefix: Ids, kv_iter: int) -> Cache:
    """A demonstration's keys and values after the momentum steps of the authors' program."""
    ids, length = torch.tensor([prefix]), len(prefix)
    cache = last_of(model(input_ids=ids, use_cache=True).past_key_values, length)
    velocity: Cache | None = None
    for _ in range(kv_iter - 1):
        # Once more behind itself: at positions length to 2 * length - 1.
        again = last_of(model(input_ids=ids, past_key_values=as_cache(cache), use_cache=True).past_key_values, length)
        gradient = [
            (new_key - key, new_value - value) for (new_key, new_value), (key, value) in zip(again, cache, strict=True)
        ]
        if velocity is None:
            velocity = gradient
        else:
            velocity = [(g[0] + 0.9 * v[0], g[1] + 0.9 * v[1]) for g, v in zip(gradient, velocity, strict=True)]
        cache = [(kv[0] + 0.01 * v[0], kv[1] + 0.01 * v[1]) for kv, v in zip(cache, velocity, strict=True)]
    return cache


@torch.no_grad()
def refined_row(model: Any, prefix: Ids, continuations: Sequence[Continuation], kv_iter: int) -> Rows:
    row = np.zeros(len(continuations))
    with one_core():
        cache = refined_cache(model, prefix, kv_iter) if prefix else None
        for members in equal_lengths(continuations):
            ids = torch.tensor([continuations[index].ids for index in members])
            behind = as_cache(cache, len(members)) if cache else None
            log_probs = model(input_ids=ids, past_key_values=behind, use_cache=True).logits.double().log_softmax(dim=-1)
            following = log_probs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
            for place, index in enumerate(members):
                row[index] = following[place, continuations[index].response_start - 1 :].sum().item()
    return row


@lru_cache
def refined_rows(family: str, kv_iter: int) -> Rows:
    return np.array([refined_row(plain_model(family), prefix, MIXED, kv_iter) for prefix in PREFIXES])


@lru_cache
def engine_with(family: str, kv_iter: int, token_budget: int = 4096) -> LanguageModel:
    return open_engine(build_model(family), token_budget=token_budget, kv_iter=kv_iter)


@pytest.mark.parametrize("kv_iter", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_sums_behind_refined_keys_and_values_are_those_of_the_definition(family: str, kv_iter: int) -> None:
    assert_close(rows_of(engine_with(family, kv_iter), PREFIXES, MIXED), refined_rows(family, kv_iter), MIXED)


@pytest.mark.parametrize("kv_iter", [2, 3])
@pytest.mark.parametrize("token_budget", [1, 20, 60])
def test_the_token_budget_never_changes_a_refined_sum(kv_iter: int, token_budget: int) -> None:
    found = rows_of(engine_with("llama_grouped", kv_iter, token_budget), PREFIXES, MIXED)
    assert_close(found, refined_rows("llama_grouped", kv_iter), MIXED)


@pytest.mark.parametrize("token_budget", [20, 4096])
@pytest.mark.parametrize("family", FAMILIES)
def test_refined_sums_of_what_is_wanted(family: str, token_budget: int) -> None:
    engine, expected = engine_with(family, 3, token_budget), refined_rows(family, 3)
    for seed in range(3):
        wanted = random_wanted(seed, len(PREFIXES), len(MIXED))
        assert_only_wanted(rows_of(engine, PREFIXES, MIXED, wanted), expected, MIXED, wanted)


@pytest.mark.parametrize("kv_iter", [2, 3])
def test_what_continuations_have_in_common_is_not_refined(kv_iter: int) -> None:
    """It may stand behind the demonstration only once, but it is not part of it."""
    expected = [refined_row(plain_model("llama"), prefix, SAME_OPENING, kv_iter) for prefix in PREFIXES]
    assert_close(rows_of(engine_with("llama", kv_iter), PREFIXES, SAME_OPENING), np.array(expected), SAME_OPENING)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_iteration_changes_sums_by_far_more_than_the_tests_tolerance(family: str) -> None:
    """Otherwise the tests above would pass for an engine that makes no momentum steps, or one too few."""
    rows = {kv_iter: rows_of(engine_with(family, kv_iter), PREFIXES[1:], MIXED) for kv_iter in (1, 2, 3)}
    for fewer, more in ((1, 2), (2, 3)):
        changes = per_token(rows[more] - rows[fewer], MIXED)[:, SCORED]
        assert (changes.max(axis=1) > 10 * EXACT).all(), (fewer, changes.max(axis=1))


def test_the_momentum_term_shows_in_these_tests() -> None:
    """The third iteration without it: two steps along the gradient only."""
    model, prefix = plain_model("llama_grouped"), PREFIXES[4]
    with torch.no_grad():
        first, second, third = (refined_cache(model, prefix, kv_iter) for kv_iter in (1, 2, 3))
        again = model(input_ids=torch.tensor([prefix]), past_key_values=as_cache(second), use_cache=True)
    without = [
        kv[0] + 0.01 * (new[0] - kv[0])
        for kv, new in zip(second, last_of(again.past_key_values, len(prefix)), strict=True)
    ]
    steps = [(after[0] - before[0]).abs().max() for before, after in zip(first, second, strict=True)]
    missing = [(after[0] - other).abs().max() for after, other in zip(third, without, strict=True)]
    assert all(gap > 0.5 * step > 0.005 for gap, step in zip(missing, steps, strict=True))


@pytest.mark.parametrize("kv_iter", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_refined_in_front_of_a_zero_shot_sum(family: str, kv_iter: int) -> None:
    assert PREFIXES[0] == ()
    assert_close(rows_of(engine_with(family, kv_iter), [()], MIXED)[0], expected_rows(family)[0], MIXED)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_iteration_is_the_plain_sum(family: str) -> None:
    assert_close(rows_of(engine_with(family, 1), PREFIXES, MIXED), expected_rows(family), MIXED)


def test_a_zero_shot_sum_of_an_anchor_beyond_the_window_is_the_plain_one() -> None:
    """There is nothing to refine, so nothing to refuse."""
    continuations = [*random_continuations(5, [(2 * WINDOW, 5)]), MIXED[0]]
    (row,) = rows_of(engine_with("mistral_window", 2), [()], continuations)
    assert_close(row, plain_row(plain_model("mistral_window"), (), continuations), continuations)


def test_a_model_that_cannot_be_packed_is_refused_more_than_one_iteration() -> None:
    with pytest.raises(InputError, match=r"kv_iter=2 .*Gemma2ForCausalLM.*use kv_iter=1"):
        open_engine(build_model("gemma2"), kv_iter=2)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_refinement_of_a_demonstration_without_positions_behind_it_is_refused(family: str) -> None:
    """GPT-2 has learned none beyond; other models compute some that they were never trained on."""
    config = deepcopy(CONFIGS[family])
    config.max_position_embeddings = 64  # of GPT2Config, another name for n_positions
    engine = open_engine(AutoModelForCausalLM.from_config(config), kv_iter=2)
    (found,) = rows_of(engine, random_prefixes(3, [32]), MIXED[:3])
    assert np.isfinite(found).all()
    with pytest.raises(InputError, match=r"33 tokens.*64 positions; lower demonstration_tokens to at most 32"):
        rows_of(engine, random_prefixes(3, [5, 33]), MIXED[:3])


@pytest.mark.parametrize("family", ["mistral_window", "phi3_longrope"])
def test_a_demonstration_too_long_to_be_packed_is_refused_more_than_one_iteration(family: str) -> None:
    """The plain path knows no refinement: its row would be that of kv_iter=1, without a word."""
    prefixes = random_prefixes(3, [5, WINDOW + 1])
    engine = engine_with(family, 2)
    with pytest.raises(InputError, match="kv_iter"):
        rows_of(engine, prefixes, MIXED)
    (_, row) = rows_of(engine, prefixes, MIXED, [[0], []])  # nothing is asked, so nothing refused
    assert np.isnan(row).all()


def test_a_demonstration_that_leaves_the_window_is_refined_or_refused() -> None:
    """28 tokens and the longest continuation, 9, fit into the window of 40; twice 28 do not."""
    (prefix,) = random_prefixes(4, [WINDOW - 12])
    short = [item for item in MIXED if len(item.ids) <= 9]
    model = plain_model("mistral_window")
    try:
        (row,) = rows_of(engine_with("mistral_window", 2), [prefix], short)
    except InputError as error:
        assert "kv_iter" in str(error)
    else:
        assert_close(row, refined_row(model, prefix, short, 2), short)


def test_steps_of_numbers_worked_out_by_hand() -> None:
    """One layer whose pass always finds 11 and 21. From 1: g = 10, kv = 1.1; g = 9.9, m = 18.9, kv = 1.289."""
    layer = torch.nn.Identity()
    start: KeysValues = {layer: (torch.tensor(1.0), torch.tensor(1.0))}
    found: KeysValues = {layer: (torch.tensor(11.0), torch.tensor(21.0))}
    seen: list[float] = []

    def again(behind: KeysValues) -> KeysValues:
        seen.append(behind[layer][0].item())
        return found

    assert refine(start, again, iterations=1) == start
    assert seen == []
    key, value = refine(start, again, iterations=3)[layer]
    assert seen == pytest.approx([1.0, 1.1])
    assert key.item() == pytest.approx(1.289)
    assert value.item() == pytest.approx(1.0 + 0.2 + 0.01 * (19.8 + 18.0))
