"""Memory that really runs out: in separate processes, whose address space is limited to little more than they have.

A token takes about 100 KB in the layer of 8192 units, and hardly anything elsewhere.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits its address space as Linux does"),
]

_PROGRAM = """
import json, logging, resource, sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from nuggets.engine.interface import Continuation
from nuggets.engine.choose import open_engine

SIZES = dict(
    vocab_size=384, hidden_size=16, intermediate_size=8192, num_hidden_layers=1, num_attention_heads=2,
    initializer_range=0.3, max_position_embeddings=8192,
)
torch.manual_seed(0)
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("nuggets").addHandler(handler)


def ids(count):
    return tuple(torch.randint(0, 384, (count,)).tolist())


def rows_of(engine, prefixes, continuations, wanted=None):
    return np.array(list(engine.log_prob_sums(prefixes, continuations, wanted=wanted)))


@contextmanager
def megabytes_more(count):
    # More than what this process has mapped now; a failed allocation is an error from here on, not a killed process.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (count << 20), resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def refusal(engine, prefix_tokens, anchor_tokens):
    try:
        with megabytes_more(100):
            rows_of(engine, [ids(prefix_tokens)], [Continuation(ids(anchor_tokens), 2)])
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def with_and_without_limit(engine, megabytes, prefixes, continuations, wanted=None):
    expected = rows_of(engine, prefixes, continuations, wanted)
    messages.clear()
    with megabytes_more(megabytes):
        try:
            found = rows_of(engine, prefixes, continuations, wanted).tolist()
        except Exception as error:
            found = str(error)
    return {"expected": expected.tolist(), "found": found, "budget": engine.token_budget, "messages": [*messages]}


prefixes = [ids(length) for length in (450, 450, 450, 5)]
continuations = [Continuation(ids(40), 20) for _ in range(20)]
llama = LlamaForCausalLM(LlamaConfig(**SIZES))
found = {}

torch.set_num_threads(1)
for kv_iter in (1, 2):
    engine = open_engine(llama, token_budget=2048, kv_iter=kv_iter)
    found[f"kv_iter {kv_iter}"] = with_and_without_limit(engine, 100, prefixes, continuations)
wanted = [range(1), range(0, 20, 2), [], range(19, 0, -1), range(3, 18)]
found["some wanted"] = with_and_without_limit(
    open_engine(llama, token_budget=2048), 100, [ids(450), *prefixes], continuations, wanted
)
windowed = open_engine(MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=50)))
found["long anchor"] = refusal(engine, 5, 3000)
found["long demonstration"] = refusal(engine, 3000, 5)
found["not packable"] = refusal(windowed, 3000, 5)

# 8 layers that keep 48 KB of keys and values per token.
sizes = dict(SIZES, num_hidden_layers=8, num_attention_heads=1, num_key_value_heads=1, head_dim=768)
keeping = LlamaForCausalLM(LlamaConfig(**{**sizes, "intermediate_size": 16}))
short = [ids(100) for _ in range(40)]
few = [Continuation(ids(60), start) for start in (20, 30)]
found["keys and values"] = with_and_without_limit(open_engine(keeping, token_budget=2048), 60, short, few)
# Alone, 700 tokens keep 33 MB; those of the group behind them are computed before the first ones are done with.
found["two long"] = with_and_without_limit(
    open_engine(keeping, token_budget=1024), 60, [ids(700) for _ in range(3)], few
)
# The float32 copy of its head takes 51 MB.
wide = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": 200_000, "hidden_size": 64, "intermediate_size": 16}))
wide.bfloat16()
try:
    with megabytes_more(30):
        found["self-check"] = open_engine(wide).path
except Exception as error:
    found["self-check"] = f"{type(error).__name__}: {error}"
found["self-check with room"] = open_engine(wide).path

torch.set_num_threads(2)
engine = open_engine(llama, token_budget=2048)
found["two threads"] = with_and_without_limit(engine, 100, prefixes, continuations)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """What the program printed. One arena and a fixed way to allocate: what memory is needed is the same each time."""
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_sums_survived(run: dict) -> None:
    assert not isinstance(run["found"], str), run["found"]
    np.testing.assert_allclose(run["found"], run["expected"], rtol=0, atol=20 * 1e-4)
    assert (
        np.nanmax(run["expected"]) - np.nanmin(run["expected"]) > 10
    )  # sums that differ from each other, so that they can be in the wrong place


@pytest.mark.parametrize("kv_iter", [1, 2])
def test_sums_are_the_same_when_memory_runs_out_on_the_way(found: dict, kv_iter: int) -> None:
    run = found[f"kv_iter {kv_iter}"]
    assert_sums_survived(run)
    # All prefixes at once, and the first packs.
    assert run["messages"][0] == (
        "out of memory with 1355 tokens of demonstrations and 1600 tokens in a forward pass: going on with at most 677 "
        "and 800"
    )
    assert 40 <= run["budget"] <= 800
    assert run["messages"][-1].endswith(f" and {run['budget']}")


def test_sums_of_what_is_wanted_are_the_same_when_memory_runs_out_on_the_way(found: dict) -> None:
    """Three demonstrations of 450 tokens and one of 5 that something is wanted behind; 45 continuations of 40."""
    run = found["some wanted"]
    assert_sums_survived(run)
    assert np.isfinite(run["found"]).sum(axis=1).tolist() == [1, 10, 0, 19, 15]
    assert run["messages"][0].startswith("out of memory with 1355 tokens of demonstrations and ")
    assert "going on with at most 677 and " in run["messages"][0]


def test_keys_and_values_that_do_not_fit_are_computed_and_dropped_in_parts(found: dict) -> None:
    """4000 tokens of demonstrations in groups of 2000: with room for about 1200, both halves never fit."""
    run = found["keys and values"]
    assert_sums_survived(run)
    assert run["messages"][0].startswith("out of memory with 2000 tokens of demonstrations and ")
    assert "going on with at most 1000 and " in run["messages"][0]


def test_keys_and_values_of_other_groups_do_not_keep_a_demonstration_from_fitting(found: dict) -> None:
    run = found["two long"]
    assert_sums_survived(run)
    assert any(message.startswith("out of memory") for message in run["messages"])


def test_sums_are_the_same_when_two_threads_take_memory_from_each_other(found: dict) -> None:
    run = found["two threads"]
    assert_sums_survived(run)
    assert run["messages"]
    assert run["budget"] < 2048


@pytest.mark.parametrize(
    ("case", "tokens"), [("long anchor", 3005), ("long demonstration", 3005), ("not packable", 3005)]
)
def test_the_error_for_a_pair_that_does_not_fit_names_the_options_to_lower(found: dict, case: str, tokens: int) -> None:
    message = found[case]
    assert message.startswith("OutOfMemory: a single demonstration and anchor of")
    assert f"{tokens} tokens do not fit into the memory of cpu" in message
    assert "lower demonstration_tokens or anchor_tokens" in message


def test_a_self_check_without_room_is_an_error_and_not_a_model_that_cannot_be_packed(found: dict) -> None:
    assert found["self-check"].startswith(
        "OutOfMemory: the memory of cpu has no room to check packed scoring of LlamaForCausalLM, and none to score it"
    )
    assert found["self-check with room"] == "packed (by_equal_lengths)"
