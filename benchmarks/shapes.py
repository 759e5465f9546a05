"""Models of a known shape with random weights, and random ids with the lengths of real anchors: no files needed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from workload import Prefix, Workload, spread_over_lengths

from nuggets.engine.interface import Continuation

ANCHOR_LENGTHS = Path(__file__).with_name("anchor_lengths.json")
SHAPES = {
    "llama-7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
    },
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
    },
    "small": {  # a sixth of the work per token, to see how cost grows in minutes
        "vocab_size": 16384,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
    "tiny": {  # to try the benchmark itself in seconds; its numbers mean nothing
        "vocab_size": 384,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
}
_SEED = 0


def random_model(shape: str, *, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of that shape, its weights made on the device, the same ones in every run."""
    torch.manual_seed(_SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[shape], tie_word_embeddings=False), dtype=dtype)
    return model.eval().requires_grad_(False)


def random_workloads(
    shape: str, demonstration_lengths: Sequence[int], *, candidates: int, anchor_count: int | None
) -> list[Workload]:
    """Random ids: for each length, candidates of that length in front of the same anchors, as long as the paper's."""
    draw = np.random.default_rng(_SEED)

    def ids(count: int) -> Prefix:
        return tuple(draw.integers(SHAPES[shape]["vocab_size"], size=count).tolist())

    lengths = json.loads(ANCHOR_LENGTHS.read_text(encoding="utf-8"))["anchors"]
    anchors = spread_over_lengths([Continuation(ids(tokens), start) for tokens, start in lengths], anchor_count)
    return [
        Workload(
            f"random ids: demonstrations of {length} tokens, anchors as long as the paper's",
            tuple(ids(length) for _ in range(candidates)),
            tuple(anchors),
        )
        for length in demonstration_lengths
    ]
