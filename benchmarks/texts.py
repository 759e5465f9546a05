"""A real model with its tokenizer, and real texts as profile `released` lays them out."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging
from workload import Workload, spread_over_lengths

from nuggets.examples import Example, PoolRow
from nuggets.models.files import ModelFiles, find_language_model
from nuggets.models.language_model import load_tokenizer
from nuggets.models.prompts import PromptProfile, bind_profile, token_limits
from nuggets.pools.readers.detect import find_source
from nuggets.pools.readers.rows import read_pool

_ROOT = Path(__file__).resolve().parents[1]
_REAL = _ROOT.parent / "shared" / "data"
_REAL_POOL = _REAL / "alpaca_gpt4_rejects.json"
_REAL_ANCHORS = _REAL / "alpaca_gpt4_kmeans_100.json"
_DEMO = _ROOT / "demo" / "examples.jsonl"
_MAX_ROW_BYTES = 1 << 20
_SEED = 0  # of the order in which candidates are taken from the pool


def load_named_model(files: ModelFiles, *, dtype: torch.dtype, device: torch.device) -> Any:
    """The transformers model as it is, for all algorithms alike."""
    transformers_logging.disable_progress_bar()
    gguf = {"gguf_file": files.gguf} if files.gguf else {}
    model = AutoModelForCausalLM.from_pretrained(files.folder, **gguf, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def read_workload(
    files: ModelFiles, context: int, *, pool: str | None, anchors: str | None, anchor_count: int | None
) -> Workload:
    """Anchors spread over the lengths of those in the file, and as candidates the rest of the pool in random order.

    Without a pool or anchors of the user's, the paper's where they are present, else this project's demo pool.
    """
    profile = _released(files, context)
    pool = pool or _present(_REAL_POOL)
    anchors = anchors or _present(_REAL_ANCHORS)
    examples = {profile.anchor(example).continuation: example for example in _read(anchors)}
    chosen = spread_over_lengths(list(examples), anchor_count)
    taken = {examples[item] for item in chosen}
    candidates = [example for example in _read(pool) if example not in taken]
    random.Random(_SEED).shuffle(candidates)
    source = f"candidates from {Path(pool).name}, anchors from {Path(anchors).name}"
    return Workload(source, tuple(profile.demonstration(example).ids for example in candidates), tuple(chosen))


def write_anchor_lengths(path: Path) -> None:
    """Write how long the paper's anchors are under profile `released`, for models of a shape without a tokenizer."""
    files = find_language_model(None)
    profile = _released(files, context=8192)
    anchors = [profile.anchor(example).continuation for example in _read(str(_REAL_ANCHORS))]
    lines = ",\n".join(_four_a_line([[len(item.ids), item.response_start] for item in anchors]))
    path.write_text(
        '{"what": "[tokens, index at which the response starts] of the 100 anchors of the NUGGETS paper, cut at 200",\n'
        f'"how": "python benchmarks/engine.py --write-lengths: profile released, tokenizer of {files.name}",\n'
        f'"anchors": [\n{lines}\n]}}\n',
        encoding="utf-8",
    )


def _four_a_line(pairs: Sequence[object]) -> list[str]:
    return [json.dumps(pairs[start : start + 4])[1:-1] for start in range(0, len(pairs), 4)]


def _released(files: ModelFiles, context: int) -> PromptProfile:
    limits = token_limits("released", context=context, demonstration=None, anchor=None)
    return bind_profile("released", load_tokenizer(files), limits)


def _present(real: Path) -> str:
    return str(real if real.is_file() else _DEMO)


def _read(address: str) -> list[Example]:
    rows = read_pool(find_source(address), max_row_bytes=_MAX_ROW_BYTES)
    return list(dict.fromkeys(row.example for _, row in rows if isinstance(row, PoolRow)))
