"""Loading models: what is said where it can't be done, and what is in memory meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scored_pairs import MIXED, PREFIXES, assert_close, expected_rows, rows_of
from transformers import LlamaConfig, LlamaForCausalLM

from nuggets.language_model import load_language_model
from nuggets.model_files import find_language_model

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
