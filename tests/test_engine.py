"""The engine: whatever is packed, ordered or cut in pieces, the sums are those of plain transformers calls."""

import logging
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache
from itertools import count
from time import sleep
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scored_pairs import (
    MIXED,
    OPENING,
    PREFIXES,
    SAME_OPENING,
    SCORED,
    Ids,
    Rows,
    assert_close,
    assert_only_wanted,
    engine_of,
    expected_rows,
    per_token,
    plain_model,
    plain_row,
    plain_rows,
    random_continuations,
    random_prefixes,
    random_wanted,
    rows_of,
)
from tiny_models import CONFIGS, WINDOW, build_model
from transformers import AutoModelForCausalLM, FalconConfig, PreTrainedConfig

from nuggets.engine.attention import PACKED_ATTENTION
from nuggets.engine.choose import open_engine
from nuggets.engine.interface import Continuation, LanguageModel
from nuggets.engine.packed import PackedEngine
from nuggets.engine.plain import PlainEngine

PACKED = [family for family in CONFIGS if family != "gemma2"]


def pass_threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("forward pass")]


@pytest.mark.parametrize("family", CONFIGS)
def test_sums_are_those_of_one_plain_forward_pass_per_pair(family: str) -> None:
    found = rows_of(engine_of(family), PREFIXES, MIXED)
    assert found.dtype == np.float64
    assert_close(found, expected_rows(family), MIXED)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_demonstration_in_front_changes_the_sums(family: str) -> None:
    """Otherwise the test above would pass for an engine that forgets the prefix and a model that ignores it."""
    without, behind = rows_of(engine_of(family), [(), PREFIXES[2]], MIXED)
    assert (np.abs(without - behind)[SCORED] > 0.01).all()


# How passes are filled does not depend on the family: small budgets mean hundreds of passes, so one family has them.
@pytest.mark.parametrize(
    ("family", "token_budget"), [("llama_grouped", 1), ("llama_grouped", 7), ("gpt2", 64), ("gpt_neox", 64)]
)
def test_the_token_budget_never_changes_a_sum(family: str, token_budget: int) -> None:
    assert_close(rows_of(engine_of(family, token_budget), PREFIXES, MIXED), expected_rows(family), MIXED)


@pytest.mark.parametrize(
    ("family", "token_budget"),
    [("llama_grouped", 1), ("llama_grouped", 64), ("gpt2", 4096), ("mistral_window", 64), ("gemma2", 4096)],
)
def test_continuations_that_begin_alike(family: str, token_budget: int) -> None:
    """Behind no prefix, too, where what they share is all that stands in front of the rest."""
    found = rows_of(engine_of(family, token_budget), PREFIXES, SAME_OPENING)
    assert_close(found, plain_rows(plain_model(family), PREFIXES, SAME_OPENING), SAME_OPENING)


def test_the_same_continuation_many_times() -> None:
    continuations = [SAME_OPENING[0]] * 5
    found = rows_of(engine_of("llama_grouped"), PREFIXES, continuations)
    assert_close(found, plain_rows(plain_model("llama_grouped"), PREFIXES, continuations), continuations)


@pytest.mark.parametrize("column", range(len(MIXED)))
def test_a_single_continuation(column: int) -> None:
    found = rows_of(engine_of("llama_grouped"), PREFIXES, [MIXED[column]])
    assert_close(found, expected_rows("llama_grouped")[:, column : column + 1], [MIXED[column]])


@pytest.mark.parametrize("token_budget", [64, 4096])
def test_a_thousand_continuations_behind_several_prefixes(token_budget: int) -> None:
    generator = np.random.default_rng(3)
    shapes = [(int(length), int(generator.integers(1, length + 2))) for length in generator.integers(2, 14, 1000)]
    continuations, prefixes = random_continuations(4, shapes), random_prefixes(5, [25, 3, 0, 11])
    found = rows_of(engine_of("llama_grouped", token_budget), prefixes, continuations)
    assert_close(found, plain_rows(plain_model("llama_grouped"), prefixes, continuations), continuations)


@pytest.mark.parametrize("token_budget", [30, 4096])
@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("family", ["llama_grouped", "gpt2"])
def test_many_short_prefixes_that_share_packs(family: str, count: int, token_budget: int) -> None:
    prefixes = random_prefixes(6, [1 + index % 7 for index in range(count)])
    continuations = MIXED[:3]
    found = rows_of(engine_of(family, token_budget), prefixes, continuations)
    assert_close(found, plain_rows(plain_model(family), prefixes, continuations), continuations)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_continuations_without_response_tokens_sum_to_exactly_0(family: str) -> None:
    nothing_left = random_continuations(6, [(4, 4), (4, 7), (1, 1)])
    assert rows_of(engine_of(family), PREFIXES, nothing_left).tolist() == [[0.0, 0.0, 0.0]] * len(PREFIXES)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_no_prefixes_give_no_rows_and_no_continuations_give_empty_rows(family: str) -> None:
    assert list(engine_of(family).log_prob_sums([], MIXED)) == []
    assert [row.shape for row in engine_of(family).log_prob_sums(PREFIXES, [])] == [(0,)] * len(PREFIXES)


@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "mistral_window", "gemma2"])
def test_the_order_of_continuations_and_prefixes_never_changes_a_sum(family: str) -> None:
    generator = np.random.default_rng(7)
    expected = rows_of(engine_of(family), PREFIXES, MIXED)
    for _ in range(3):
        across, down = generator.permutation(len(MIXED)), generator.permutation(len(PREFIXES))
        shuffled = [MIXED[index] for index in across]
        found = rows_of(engine_of(family), [PREFIXES[index] for index in down], shuffled)
        assert_close(found, expected[down][:, across], shuffled, within=1e-5)


def test_company_in_a_pack_never_changes_a_sum() -> None:
    engine = engine_of("llama_grouped")
    together = rows_of(engine, PREFIXES, MIXED)
    alone = [[rows_of(engine, [prefix], [item])[0, 0] for item in MIXED] for prefix in PREFIXES]
    assert_close(together, np.array(alone), MIXED, within=1e-5)


@lru_cache
def adjustable_engine(family: str) -> PackedEngine:
    """An engine whose token budget the test sets."""
    engine = open_engine(build_model(family))
    assert isinstance(engine, PackedEngine)
    return engine


shapes = st.lists(st.tuples(st.integers(1, 24), st.integers(1, 26)), min_size=1, max_size=8)


@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "qwen3"])
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=5),
    shapes,
    st.integers(0, 3),
    st.integers(1, 200),
    st.integers(0, 9999),
)
def test_any_mix_of_lengths_and_budget(
    family: str, prefix_lengths: list[int], shapes: list[tuple[int, int]], opening: int, token_budget: int, seed: int
) -> None:
    prefixes = random_prefixes(seed, prefix_lengths)
    continuations = [
        Continuation((*OPENING[:opening], *item.ids), opening + item.response_start)
        for item in random_continuations(seed + 1, shapes)
    ]
    engine = adjustable_engine(family)
    engine.token_budget = token_budget
    found = rows_of(engine, prefixes, continuations)
    assert_close(found, plain_rows(plain_model(family), prefixes, continuations), continuations)


@pytest.mark.parametrize(
    ("family", "token_budget"), [("llama_grouped", 1), ("gpt2", 30), *((family, 4096) for family in CONFIGS)]
)
def test_sums_of_what_is_wanted_are_those_of_the_full_row_and_the_rest_is_nan(family: str, token_budget: int) -> None:
    for seed in range(3):
        wanted = random_wanted(seed, len(PREFIXES), len(MIXED))
        found = rows_of(engine_of(family, token_budget), PREFIXES, MIXED, wanted)
        assert_only_wanted(found, expected_rows(family), MIXED, wanted)


@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "mistral_window", "gemma2"])
def test_what_is_wanted_of_continuations_that_begin_alike(family: str) -> None:
    expected = plain_rows(plain_model(family), PREFIXES, SAME_OPENING)
    for seed in range(3):
        wanted = random_wanted(seed, len(PREFIXES), len(SAME_OPENING))
        assert_only_wanted(rows_of(engine_of(family), PREFIXES, SAME_OPENING, wanted), expected, SAME_OPENING, wanted)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_what_is_wanted_may_be_nothing_or_without_response_tokens_or_everything(family: str) -> None:
    engine, unscored = engine_of(family), int(np.flatnonzero(~SCORED)[0])
    wanted = [[], [unscored], [unscored, 0], range(len(MIXED)), [], [unscored]]
    assert_only_wanted(rows_of(engine, PREFIXES, MIXED, wanted), expected_rows(family), MIXED, wanted)
    assert np.isnan(rows_of(engine, PREFIXES, MIXED, [[]] * len(PREFIXES))).all()
    assert rows_of(engine, PREFIXES, [], [[]] * len(PREFIXES)).shape == (len(PREFIXES), 0)


@pytest.mark.parametrize("family", ["llama_grouped", "gpt2"])
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sets(st.integers(0, 7))), min_size=1, max_size=6),
    shapes,
    st.integers(1, 200),
    st.integers(0, 9999),
)
def test_any_mix_of_what_is_wanted(
    family: str, prefixes: list[tuple[int, set[int]]], shapes: list[tuple[int, int]], token_budget: int, seed: int
) -> None:
    asked = random_prefixes(seed, [length for length, _ in prefixes])
    wanted = [[index for index in indices if index < len(shapes)] for _, indices in prefixes]
    continuations = random_continuations(seed + 1, shapes)
    engine = adjustable_engine(family)
    engine.token_budget = token_budget
    found = rows_of(engine, asked, continuations, wanted)
    assert_only_wanted(found, plain_rows(plain_model(family), asked, continuations), continuations, wanted)


def tokens_computed(engine: Any, prefixes: list[Ids], continuations: list[Continuation], wanted: Any = None) -> int:
    """Tokens that go through the model, whether the engine packs or not."""
    lengths: list[int] = []
    hook = engine.model.base_model.register_forward_pre_hook(
        lambda module, args, named: lengths.append(named["input_ids"].numel()), with_kwargs=True
    )
    try:
        rows_of(engine, prefixes, continuations, wanted)
    finally:
        hook.remove()
    return sum(lengths)


@pytest.mark.parametrize("kv_iter", [1, 3])
@pytest.mark.parametrize("token_budget", [1, 30, 4096])
def test_only_what_is_wanted_goes_through_the_model(token_budget: int, kv_iter: int) -> None:
    """Members of MIXED are 9, 5, 9, 14, (3), 14, 9, 2, (6) and 21 tokens long; two of them have no response."""
    engine = open_engine(build_model("llama"), token_budget=token_budget, kv_iter=kv_iter)
    demonstrations = sum(map(len, PREFIXES))
    assert demonstrations == 61
    assert tokens_computed(engine, PREFIXES, MIXED) == kv_iter * 61 + 6 * 83
    wanted = [[1], [], [0, 9, 7], [4], [3, 4], []]  # behind 0, 1, 12, 3, 33 and 12 tokens
    assert tokens_computed(engine, PREFIXES, MIXED, wanted) == kv_iter * (12 + 33) + 5 + (9 + 21 + 2) + 14
    assert tokens_computed(engine, PREFIXES, MIXED, [[]] * 6) == 0


def test_only_what_is_wanted_goes_through_a_model_that_cannot_be_packed() -> None:
    wanted = [[1], [], [0, 9, 7], [4], [3, 4], []]
    assert tokens_computed(engine_of("gemma2"), PREFIXES, MIXED, wanted) == 5 + 3 * 12 + (9 + 21 + 2) + 33 + 14


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("missing", ["prefix", "wanted"])
def test_prefixes_and_what_is_wanted_must_be_equally_many(family: str, missing: str) -> None:
    prefixes = PREFIXES[:2] if missing == "prefix" else PREFIXES[:3]
    wanted = iter([[0], [1], [2]] if missing == "prefix" else [[0], [1]])
    with pytest.raises(ValueError, match="argument 2 is"):
        list(engine_of(family).log_prob_sums(iter(prefixes), MIXED, wanted=wanted))
    assert pass_threads_left() == []


def wins(zero_shot: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Which cells are above their anchor's baseline, and which are far enough from it to be certain."""
    return rows > zero_shot, np.abs(rows - zero_shot) > 1e-3


@pytest.mark.parametrize("family", ["llama_grouped", "gpt_neox"])
def test_neither_budget_nor_order_ever_changes_a_win(family: str) -> None:
    prefixes = random_prefixes(12, [3, 8, 1, 30, 14, 5, 9, 2, 22, 6])
    model = plain_model(family)
    expected, clear = wins(plain_row(model, (), SAME_OPENING), plain_rows(model, prefixes, SAME_OPENING))
    scored = clear.any(axis=0)
    assert clear[:, scored].mean() > 0.95
    assert 0.2 < expected[clear].mean() < 0.8
    generator = np.random.default_rng(13)
    for token_budget in (1, 5, 17, 60, 250, 1000, 4096):
        across, down = generator.permutation(len(SAME_OPENING)), generator.permutation(len(prefixes))
        anchors = [SAME_OPENING[index] for index in across]
        engine = engine_of(family, token_budget)
        (baseline,) = rows_of(engine, [()], anchors)
        found, _ = wins(baseline, rows_of(engine, [prefixes[index] for index in down], anchors))
        assert (found == expected[down][:, across])[clear[down][:, across]].all(), token_budget


def counted(prefixes: Iterator[Ids], asked: list[Ids]) -> Iterator[Ids]:
    for prefix in prefixes:
        asked.append(prefix)
        yield prefix


def test_rows_come_while_prefixes_are_read_and_few_are_read_ahead() -> None:
    """Four prefixes fill four packs of 64 tokens; one such group is queued while the sums of another are read."""
    asked: list[Ids] = []
    many = (prefix for seed in range(300) for prefix in random_prefixes(seed, [5, 2]))
    rows = engine_of("llama_grouped", 64).log_prob_sums(counted(many, asked), MIXED)
    assert asked == []
    for done in range(1, 20):
        row = next(rows)
        assert_close(row, plain_row(plain_model("llama_grouped"), asked[done - 1], MIXED), MIXED)
        assert done <= len(asked) <= done + 3 * 4
    rows.close()


@pytest.mark.parametrize("family", ["llama_grouped", "gemma2"])
def test_what_is_wanted_is_asked_for_no_further_ahead_than_the_prefixes(family: str) -> None:
    asked: list[Ids] = []
    wanted: list[Any] = []

    def indices() -> Iterator[list[int]]:
        for number in count():
            assert len(asked) == len(wanted) + 1
            wanted.append([number % len(MIXED), (number + 4) % len(MIXED)][: number % 3])
            yield wanted[-1]

    many = (prefix for seed in range(300) for prefix in random_prefixes(seed, [5, 2]))
    rows = engine_of(family, 20).log_prob_sums(counted(many, asked), MIXED, wanted=indices())
    assert asked == wanted == []
    for done in range(20):
        row = next(rows)
        expected = plain_row(plain_model(family), asked[done], MIXED)
        assert_only_wanted(row[None], expected[None], MIXED, [wanted[done]])
        assert len(asked) < 60
    rows.close()


@pytest.mark.parametrize("family", ["llama", "mistral_window", "gemma2"])
def test_one_prefix_at_a_time_is_at_most_three_ahead(family: str) -> None:
    asked: list[Ids] = []
    rows = engine_of(family, 1).log_prob_sums(counted(iter([PREFIXES[4]] * 9), asked), MIXED)
    for done in range(1, 10):
        next(rows)
        assert done <= len(asked) <= done + 3
    with pytest.raises(StopIteration):
        next(rows)


@pytest.mark.parametrize("family", ["llama", "mistral_window", "gemma2"])
def test_an_error_of_the_prefixes_comes_out_and_leaves_no_thread_behind(family: str) -> None:
    def prefixes() -> Iterator[Ids]:
        yield from PREFIXES
        raise KeyError("the store is gone")

    rows = []
    with pytest.raises(KeyError, match="the store is gone"):
        rows.extend(engine_of(family, 20).log_prob_sums(prefixes(), MIXED))
    assert pass_threads_left() == []
    assert_close(rows_of(engine_of(family, 20), PREFIXES, MIXED), expected_rows(family), MIXED)


def test_an_error_of_a_forward_pass_comes_out_and_leaves_no_thread_behind() -> None:
    beyond_the_vocabulary = [Continuation((1, 10**6, 2), 1)]
    with pytest.raises(IndexError):
        rows_of(engine_of("llama"), PREFIXES, [*MIXED, *beyond_the_vocabulary])
    with pytest.raises(IndexError):
        rows_of(engine_of("llama"), [*PREFIXES, (10**6,)], MIXED)
    assert pass_threads_left() == []


def test_rows_that_are_not_consumed_to_the_end_leave_no_thread_behind() -> None:
    many = (prefix for seed in range(300) for prefix in random_prefixes(seed, [5, 2]))
    rows = engine_of("llama").log_prob_sums(many, MIXED)
    next(rows)
    assert pass_threads_left() != []
    rows.close()
    assert pass_threads_left() == []


def score_in_two_threads(engine: LanguageModel, prefixes: list[Ids], continuations: list[Continuation]) -> list[Rows]:
    """Both score all of the prefixes, the second one backwards; threads take turns as often as they can."""
    start = threading.Barrier(2)
    found: list[Rows] = []

    def score(step: int) -> None:
        start.wait(20)
        found.append(rows_of(engine, prefixes[::step], continuations)[::step])

    threads = [threading.Thread(target=score, args=(step,)) for step in (1, -1)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(found) == 2
    return found


@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "gemma2"])
def test_two_threads_may_use_one_engine_at_the_same_time(family: str) -> None:
    for rows in score_in_two_threads(engine_of(family, 100), PREFIXES * 3, MIXED):
        assert_close(rows, np.tile(expected_rows(family), (3, 1)), MIXED)


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


def test_plain_passes_take_logits_of_response_tokens_only() -> None:
    """And of the last token, which predicts nothing: models count what they keep from the end."""
    model = build_model("gemma2")
    through_head: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: through_head.append(out.shape[1]))
    continuations = random_continuations(4, [(21, 5), (3, 2), (6, 1)])
    (row,) = PlainEngine(model).log_prob_sums([PREFIXES[4]], continuations)
    assert through_head == [17, 2, 6]
    assert_close(row, plain_row(plain_model("gemma2"), PREFIXES[4], continuations), continuations)


def test_plain_passes_of_a_model_that_gives_all_logits() -> None:
    class Everything(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model
            self.device = model.device

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return self.model(input_ids=input_ids, use_cache=use_cache)

    (row,) = PlainEngine(Everything(build_model("gemma2"))).log_prob_sums([PREFIXES[4]], MIXED)
    assert_close(row, plain_row(plain_model("gemma2"), PREFIXES[4], MIXED), MIXED)


def test_no_warning_where_packing_is_right(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="nuggets"):
        open_engine(build_model("qwen2"))
    assert caplog.messages == []


def build_from(config: PreTrainedConfig) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.3, 0.05])
def test_a_model_that_never_calls_the_attention_it_is_given_is_not_packed(spread: float, dtype: torch.dtype) -> None:
    """Falcon keeps its own; with narrow weights what leaks from one continuation to the next is less than rounding."""
    config = FalconConfig(
        vocab_size=384, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, initializer_range=spread
    )
    assert type(open_engine(build_from(config).to(dtype))) is PlainEngine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        # A thousandth of a nat per token, far less than rounding to 16 bits.
        ({"attn_logit_softcapping": 30.0, "final_logit_softcapping": None}, "soft-capped logits"),
        # With narrow weights all logits are small where a cap of 30 hardly bends.
        (
            {"attn_logit_softcapping": None, "final_logit_softcapping": 30.0, "initializer_range": 0.02},
            "the logits of its head",
        ),
    ],
)
def test_a_soft_cap_shows_where_rounding_is_larger(
    changed: dict[str, Any], reason: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    config = deepcopy(CONFIGS["gemma2"])
    for name, value in changed.items():
        setattr(config, name, value)
    with caplog.at_level(logging.WARNING, logger="nuggets"):
        engine = open_engine(build_from(config).to(dtype))
    assert type(engine) is PlainEngine
    assert reason in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_not_taken_for_a_difference(dtype: torch.dtype) -> None:
    """Twelve layers of wide weights: in bfloat16, sums of eight tokens differ by 0.17 nats per token."""
    config = deepcopy(CONFIGS["llama_grouped"])
    config.num_hidden_layers, config.initializer_range = 12, 0.6
    assert type(open_engine(build_from(config).to(dtype))) is PackedEngine


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "gemma2"])
def test_a_model_of_16_bits_is_tried_in_float32_and_is_what_it_was_afterwards(family: str, dtype: torch.dtype) -> None:
    model = build_model(family).to(dtype)
    weights = {name: (id(weight), weight.data_ptr()) for name, weight in model.named_parameters()}
    expected = plain_rows(model, PREFIXES, MIXED)
    open_engine(model)
    assert {name: (id(weight), weight.data_ptr()) for name, weight in model.named_parameters()} == weights
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert (plain_rows(model, PREFIXES, MIXED) == expected).all()


@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "gemma2"])
def test_the_model_is_left_as_it_was_and_its_weights_are_in_memory_once(family: str) -> None:
    model = build_model(family)
    attention = model.config._attn_implementation
    assert attention != PACKED_ATTENTION
    engine = open_engine(model)
    rows_of(engine, PREFIXES, MIXED)
    assert model.config._attn_implementation == attention
    assert_close(plain_rows(model, PREFIXES, MIXED), expected_rows(family), MIXED)
    if isinstance(engine, PackedEngine):
        assert engine.model.config._attn_implementation == PACKED_ATTENTION
        pointers = [[weight.data_ptr() for weight in each.parameters()] for each in (model, engine.model)]
        assert pointers[0] == pointers[1]
    else:
        assert engine.model is model


AROUND_THE_WINDOW = [WINDOW - 22, WINDOW - 21, WINDOW - 20, WINDOW, WINDOW + 1, 3 * WINDOW, 2]
LIMITED = ["mistral_window", "gemma2", "gemma3", "phi3_longrope"]


@pytest.mark.parametrize("continuations", [MIXED, SAME_OPENING], ids=["mixed", "same opening"])
@pytest.mark.parametrize("family", LIMITED)
def test_sequences_around_and_beyond_the_window(family: str, continuations: list[Continuation]) -> None:
    """The longest of MIXED has 21 tokens: totals of one below the window, the window, one above, and far above."""
    prefixes = random_prefixes(8, AROUND_THE_WINDOW)
    found = rows_of(engine_of(family), prefixes, continuations)
    assert_close(found, plain_rows(plain_model(family), prefixes, continuations), continuations)


@pytest.mark.parametrize("token_budget", [30, 4096])
@pytest.mark.parametrize("family", LIMITED)
def test_what_is_wanted_around_and_beyond_the_window(family: str, token_budget: int) -> None:
    prefixes = random_prefixes(8, AROUND_THE_WINDOW)
    expected = plain_rows(plain_model(family), prefixes, MIXED)
    for seed in range(3):
        wanted = random_wanted(seed, len(prefixes), len(MIXED))
        assert_only_wanted(rows_of(engine_of(family, token_budget), prefixes, MIXED, wanted), expected, MIXED, wanted)


# A model with longrope changes its frequencies whenever a sequence is on another side of the limit than the last one.
BOTH_SIDES = random_continuations(1, [(4, 2), (25, 20)] * 6)
AT_THE_LIMIT = random_prefixes(8, [WINDOW - 20] * 12)


def test_sequences_on_both_sides_of_a_limit_do_not_disturb_each_other() -> None:
    expected = plain_rows(plain_model("phi3_longrope"), AT_THE_LIMIT, BOTH_SIDES)
    for _ in range(3):
        assert_close(rows_of(engine_of("phi3_longrope"), AT_THE_LIMIT, BOTH_SIDES), expected, BOTH_SIDES)


def test_two_threads_do_not_disturb_each_other_on_both_sides_of_a_limit() -> None:
    """Wrong sums would be rare: so it is counted, too, how many threads are in the model that changes."""
    model = build_model("phi3_longrope")
    engine = open_engine(model)
    inside, most = 0, 0

    def enter(*_: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        sleep(0.001)

    def leave(*_: Any) -> None:
        nonlocal inside
        inside -= 1

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave)
    found = score_in_two_threads(engine, AT_THE_LIMIT, BOTH_SIDES)
    expected = plain_rows(plain_model("phi3_longrope"), AT_THE_LIMIT, BOTH_SIDES)
    for rows in found:
        assert_close(rows, expected, BOTH_SIDES)
    assert most == 1


def test_frequencies_that_grow_with_the_sequence_beyond_the_trained_length() -> None:
    """rope_type=dynamic: a demonstration's keys depend on the length of what stands behind it. Totals of 44 of 40."""
    config = deepcopy(CONFIGS["llama"])
    config.max_position_embeddings = WINDOW
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    (prefix,) = random_prefixes(8, [WINDOW - 5])
    continuations = [item for item in MIXED if len(item.ids) == 9]
    (row,) = rows_of(open_engine(build_from(config)), [prefix], continuations)
    assert_close(row, plain_row(build_from(config), prefix, continuations), continuations)


@pytest.mark.parametrize("family", LIMITED)
def test_a_continuation_beyond_the_window_without_any_prefix(family: str) -> None:
    continuations = random_continuations(9, [(2 * WINDOW, 5), (6, 2)])
    (row,) = engine_of(family).log_prob_sums([()], continuations)
    assert_close(row, plain_row(plain_model(family), (), continuations), continuations)


def test_the_window_shows_in_these_tests() -> None:
    """The two models have the same weights: without this difference, a window that is ignored would not be seen."""
    (prefix,) = random_prefixes(10, [3 * WINDOW])
    windowed, unlimited = (plain_row(plain_model(name), prefix, MIXED) for name in ("mistral_window", "mistral"))
    assert np.abs(windowed - unlimited).max() > 1.0


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_weights_that_are_not_numbers_give_sums_that_are_not_finite(family: str) -> None:
    model = build_model(family)
    engine = open_engine(model)
    with torch.no_grad():
        next(model.model.layers[1].mlp.parameters())[3, 5] = float("nan")
    rows = rows_of(engine, PREFIXES, MIXED)
    assert not np.isfinite(rows[:, SCORED]).any()
    assert (rows[:, ~SCORED] == 0.0).all()


@pytest.mark.parametrize("family", ["llama_grouped", "gpt_neox"])
def test_demonstrations_have_a_budget_of_the_bytes_that_they_keep(family: str) -> None:
    """Two layers, 2 heads of 12 in float32; GPT-NeoX has 4 heads, and its values are part of a product that goes."""
    kept = {"llama_grouped": 2 * 2 * 2 * 12 * 4, "gpt_neox": 2 * 2 * 4 * 12 * 4}[family]
    first, refined = (open_engine(build_model(family), kv_iter=kv_iter) for kv_iter in (1, 2))
    assert isinstance(first, PackedEngine)
    assert isinstance(refined, PackedEngine)
    assert first.prefix_budget == (4 << 30) // (3 * kept)
    assert refined.prefix_budget < 0.5 * first.prefix_budget


def test_a_model_in_training_mode_is_scored_without_its_dropout() -> None:
    model = build_model("gpt2").train()
    assert_close(rows_of(open_engine(model), PREFIXES, MIXED), expected_rows("gpt2"), MIXED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama_grouped", "gpt2", "gemma2"])
def test_in_16_bits_sums_are_as_near_to_float32_as_those_of_plain_forward_passes(
    family: str, dtype: torch.dtype
) -> None:
    model = build_model(family).to(dtype)
    engine = open_engine(model)
    assert type(engine) is (PlainEngine if family == "gemma2" else PackedEngine)
    assert engine.model.dtype == dtype
    errors = [
        np.sqrt((per_token(rows - expected_rows(family), MIXED)[:, SCORED] ** 2).mean())
        for rows in (rows_of(engine, PREFIXES, MIXED), plain_rows(model, PREFIXES, MIXED))
    ]
    assert 0.0 < errors[0] < 1.3 * errors[1], errors


@pytest.mark.parametrize("family", ["llama_grouped", "gemma2"])
def test_a_model_in_float64(family: str) -> None:
    engine = open_engine(build_model(family).double())
    assert type(engine) is (PlainEngine if family == "gemma2" else PackedEngine)
    assert_close(rows_of(engine, PREFIXES, MIXED), expected_rows(family), MIXED)


def test_candidates_beyond_the_window_are_scored_one_pair_at_a_time_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = engine_of("mistral_window")
    with caplog.at_level(logging.WARNING, logger="nuggets"):
        rows_of(engine, random_prefixes(1, [3, 2]), [item for item in MIXED if len(item.ids) < 15])
        assert caplog.messages == []
        rows_of(engine, random_prefixes(1, [3, 2 * WINDOW, 3 * WINDOW]), MIXED)
    (message,) = caplog.messages
    assert f"{2 * WINDOW} tokens in front of anchors" in message
    assert f"more than the {WINDOW} that" in message
    assert "one pair per forward pass" in message


def test_one_long_anchor_takes_only_its_own_pairs_off_the_packs() -> None:
    """Behind 15 tokens, the anchor of 30 leaves the window of 40; behind 5, nothing does."""
    engine = engine_of("mistral_window", 60)
    assert isinstance(engine, PackedEngine)
    continuations = [*MIXED, *random_continuations(5, [(30, 12)])]
    prefixes = random_prefixes(1, [15, 5, 15, 15])
    passes: list[int] = []
    hook = engine.plain.model.register_forward_pre_hook(
        lambda module, args, named: passes.append(named["input_ids"].numel()), with_kwargs=True
    )
    try:
        found = rows_of(engine, prefixes, continuations)
    finally:
        hook.remove()
    assert passes == [15 + 30] * 3
    assert_close(found, plain_rows(plain_model("mistral_window"), prefixes, continuations), continuations)


def test_what_is_not_wanted_takes_no_candidate_beyond_the_window(caplog: pytest.LogCaptureFixture) -> None:
    """With 30 tokens in front, only continuations of more than 10 tokens leave the window of 40."""
    prefixes = random_prefixes(1, [30, 3 * WINDOW])
    short = [index for index, item in enumerate(MIXED) if len(item.ids) < 10]
    with caplog.at_level(logging.WARNING, logger="nuggets"):
        found = rows_of(engine_of("mistral_window"), prefixes, MIXED, [short, []])
    assert caplog.messages == []
    assert_only_wanted(found, plain_rows(plain_model("mistral_window"), prefixes, MIXED), MIXED, [short, []])
