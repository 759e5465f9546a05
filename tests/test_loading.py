"""Loading models: what is said where it can't be done, and what is in memory meanwhile."""

import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest
import torch
from scored_pairs import MIXED, PREFIXES, assert_close, expected_rows, rows_of
from tiny_models import save_tiny_llama
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from nuggets.embedding import load_encoder
from nuggets.language_model import load_language_model
from nuggets.loaded_model import loaded_model
from nuggets.model_files import find_encoder, find_language_model

# 25 million weights in the layer, and hardly any elsewhere
_WIDE = {"vocab_size": 384, "hidden_size": 256, "intermediate_size": 32_768, "num_hidden_layers": 1}

_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path

from nuggets.errors import OutOfMemory
from nuggets.language_model import load_language_model
from nuggets.model_files import ModelFiles

folder, tiny, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
load_language_model(ModelFiles(tiny, tiny), dtype="float32")  # imports all that loading takes
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (megabytes << 20), resource.RLIM_INFINITY))
try:
    load_language_model(ModelFiles("wide", folder), dtype="float32")
except OutOfMemory as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space as Linux does")
@pytest.mark.parametrize("megabytes", [60, 160])  # too few for its file, and for what is made of it
def test_a_model_that_does_not_fit_is_an_error_that_says_how_large_it_is(
    tmp_path: Path, tiny_model: Path, megabytes: int
) -> None:
    LlamaForCausalLM(LlamaConfig(**_WIDE)).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _WITH_LITTLE_MEMORY, str(tmp_path), str(tiny_model), str(megabytes)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "model='wide' in float32 does not fit into the memory of cpu: its weights take 0.10 GB, and "
    )
    assert done.stdout.endswith(
        " GB are free: end what else is running there, or choose dtype=bfloat16, a smaller model or another device\n"
    )


def test_a_model_that_was_saved_gives_the_sums_that_it_gave_before(tiny_model: Path) -> None:
    engine = load_language_model(find_language_model(str(tiny_model)), dtype="float32")
    assert engine.model.device == torch.device("cpu")
    assert_close(rows_of(engine, PREFIXES, MIXED), expected_rows("llama_grouped"), MIXED)


@pytest.fixture
def loadings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Which language models were loaded, and what `told` has put between them."""
    events: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: events.append(record.getMessage().partition(" (")[0])
    logger = logging.getLogger("nuggets.language_model")
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, logger="nuggets.language_model"):
        yield events
    logger.removeHandler(handler)


def save_tiny_encoder(folder: Path) -> Path:
    """A tiny Llama whose tokenizer can pad: sentence-transformers takes the mean of its states."""
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_llama(folder))
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_has_left_the_memory_before_another_one_is_loaded(
    tmp_path: Path, tiny_model: Path, loadings: list[str]
) -> None:
    encoder, other = find_encoder(str(save_tiny_encoder(tmp_path / "encoder"))), tmp_path / "other"
    files, others = find_language_model(str(tiny_model)), find_language_model(str(save_tiny_llama(other)))

    def last_of(model: torch.nn.Module, name: str) -> None:
        weakref.finalize(next(model.parameters()), loadings.append, f"{name} gone")

    last_of(load_encoder(encoder), "encoder")
    last_of(load_language_model(files, dtype="float32").model, "first")
    last_of(load_language_model(others, dtype="float32").model, "second")
    last_of(load_encoder(encoder), "encoder")
    load_language_model(others, dtype="float32")
    assert loadings == [
        *("encoder gone", f"loaded {files.name}"),
        *("first gone", f"loaded {others.name}"),
        "second gone",
        *("encoder gone", f"loaded {others.name}"),
    ]


def test_a_model_is_loaded_once_for_as_long_as_no_other_one_is_wanted(tiny_model: Path, loadings: list[str]) -> None:
    files = find_language_model(str(tiny_model))
    models = {id(load_language_model(files, dtype=dtype)) for dtype in ("bfloat16", "bfloat16", "bfloat16")}
    assert len(models) == 1
    assert loadings == [f"loaded {files.name}"]
    load_language_model(files, dtype="float32")
    assert len(loadings) == 2


def test_a_model_that_could_not_be_loaded_is_tried_again() -> None:
    def broken() -> None:
        raise KeyError("weights")

    for _ in range(2):
        with pytest.raises(KeyError):
            loaded_model("a model", broken)
    assert loaded_model("a model", lambda: "there") == "there"


def test_two_threads_that_want_the_same_model_load_it_once() -> None:
    loads: list[object] = []

    def load() -> object:
        sleep(0.2)
        loads.append(object())
        return loads[-1]

    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(loaded_model("both", load))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [loads[0]] * 2
