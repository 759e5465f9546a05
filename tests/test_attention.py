"""Packed attention as models call it: what it leaves out it refuses, and what it keeps is no more than it needs."""

from typing import Any

import numpy as np
import pytest
import torch
from scored_pairs import (
    MIXED,
    PREFIXES,
    SCORED,
    assert_close,
    per_token,
    plain_rows,
    random_continuations,
    random_prefixes,
    rows_of,
)
from tiny_models import VOCABULARY, WINDOW, build_model
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from nuggets.engine.attention import ForwardPass, forward_pass, packed_attention
from nuggets.engine.attention_kernels import Pieces, by_equal_lengths, longest_reach
from nuggets.engine.choose import open_engine
from nuggets.engine.packed import PackedEngine
from nuggets.engine.plain import PlainEngine

CPU = torch.device("cpu")
HEADS = torch.ones(1, 2, 12, 8)


def attend(own: Pieces, shared: Pieces | None = None, **asked: Any) -> torch.Tensor:
    layer = nn.Identity()
    behind = {layer: (HEADS, HEADS)} if shared else None
    kernel = by_equal_lengths(shared, CPU) if shared else None
    with forward_pass(ForwardPass(by_equal_lengths(own, CPU), kernel, behind)):
        return packed_attention(layer, HEADS, HEADS, HEADS, **{"attention_mask": None, **asked})[0]


OWN = Pieces((5, 5, 2), (5, 5, 2), causal=True)
BEHIND = Pieces((5, 7), (3, 9), causal=False)  # 3 tokens in front of the first piece, 9 in front of the other two


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"softcap": 50.0}, "softcap=50.0"),
        ({"s_aux": torch.zeros(2)}, "sinks"),
        ({"attention_mask": torch.ones(1, 1, 12, 12)}, "mask"),
        ({"sliding_window": 4}, "a window of 4 tokens over sequences of 5"),
    ],
)
def test_what_packed_attention_would_leave_out_is_refused(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(NotImplementedError, match=named):
        attend(OWN, **asked)


def test_a_window_is_refused_where_a_sequence_is_longer_and_not_where_the_pass_is() -> None:
    assert longest_reach(OWN, None) == 5
    assert longest_reach(OWN, BEHIND) == 14
    within = attend(OWN, BEHIND, sliding_window=14, softcap=None, s_aux=None)
    torch.testing.assert_close(within, attend(OWN, BEHIND))
    with pytest.raises(NotImplementedError, match="a window of 13 tokens over sequences of 14"):
        attend(OWN, BEHIND, sliding_window=13)


def test_the_longest_piece_need_not_follow_the_longest_demonstration() -> None:
    """A race wants few continuations behind some demonstrations: 2 tokens behind 10, and 10 behind 2."""
    own = Pieces((2, 10), (2, 10), causal=True)
    assert longest_reach(own, Pieces((2, 10), (10, 2), causal=False)) == 12


def test_soft_caps_that_are_too_wide_to_show_in_a_trial_are_seen_all_the_same() -> None:
    model = build_model("gemma2")
    for layer in model.model.layers:
        layer.self_attn.attn_logit_softcapping = 1000.0
    model.config.final_logit_softcapping = None
    assert type(open_engine(model)) is PlainEngine


def test_a_window_that_the_configuration_does_not_show_is_not_ignored() -> None:
    """Sums of longer sequences would be those of another model."""
    engine = open_engine(build_model("mistral"))
    assert type(engine) is PackedEngine
    engine.model.config.sliding_window = WINDOW
    continuations = random_continuations(1, [(20, 4)])
    assert len(list(engine.log_prob_sums(random_prefixes(2, [WINDOW - 20]), continuations))) == 1
    with pytest.raises(NotImplementedError, match=f"a window of {WINDOW} tokens over sequences of {WINDOW + 1}"):
        list(engine.log_prob_sums(random_prefixes(2, [WINDOW - 19]), continuations))


@pytest.mark.parametrize("family", ["llama_grouped", "phi3", "gpt_neox", "gpt2"])
def test_of_a_demonstration_no_more_is_kept_than_its_keys_and_values(family: str) -> None:
    """The last three make queries, keys and values in one product, of which keys and values are views."""
    engine = open_engine(build_model(family))
    assert type(engine) is PackedEngine
    parts = [part for pair in engine.keys_values(random_prefixes(3, [50, 20])).values() for part in pair]
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
    assert sum(storages.values()) == sum(part.nbytes for part in parts)


@pytest.mark.parametrize("value_size", [16, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_values_have_heads_of_another_size_than_its_keys_is_packed(
    dtype: torch.dtype, value_size: int
) -> None:
    """As DeepSeek's: keys of 24, of which 8 carry the position."""
    config = DeepseekV3Config(
        **{"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 4, "first_k_dense_replace": 2, "initializer_range": 0.3},
        **{"kv_lora_rank": 16, "q_lora_rank": None, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8},
        v_head_dim=value_size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DeepseekV3ForCausalLM(config).eval()
    expected = plain_rows(model, PREFIXES, MIXED)
    engine = open_engine(model.to(dtype))
    assert type(engine) is PackedEngine
    found = rows_of(engine, PREFIXES, MIXED)
    if dtype == torch.float32:
        assert_close(found, expected, MIXED)
    else:
        assert np.nanmax(np.abs(per_token(found - expected, MIXED)[:, SCORED])) < 0.2
