"""Loading models: the errors where loading fails, and what is in memory meanwhile."""

import io
import json
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep

import pytest
import torch
from scored_pairs import MIXED, PREFIXES, assert_close, expected_rows, rows_of
from tiny_models import save_tiny_encoder, save_tiny_llama
from transformers import LlamaConfig, LlamaForCausalLM

from nuggets.errors import InputError
from nuggets.models.cache import loaded_model
from nuggets.models.encoder import load_encoder
from nuggets.models.files import find_encoder, find_language_model
from nuggets.models.language_model import load_language_model
from nuggets.models.model_card import describe_model
from nuggets.store.store import Store
from tasks.retry_policy import can_help

# 25 million weights in the layer, and hardly any elsewhere
_WIDE = {"vocab_size": 384, "hidden_size": 256, "intermediate_size": 32_768, "num_hidden_layers": 1}

_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path

from nuggets.errors import OutOfMemory
from nuggets.models.language_model import load_language_model
from nuggets.models.files import ModelFiles

folder, tiny, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
load_language_model(ModelFiles(tiny, tiny), dtype="float32")  # imports all that loading takes
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (megabytes << 20), resource.RLIM_INFINITY))
try:
    load_language_model(ModelFiles("wide", folder), dtype="float32")
except OutOfMemory as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space as Linux does")
@pytest.mark.parametrize("megabytes", [60, 160])  # too few for its file, and for what is made of it
def test_the_error_for_a_model_that_does_not_fit_names_its_size(
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
        " GB were free: end what else is running there, or choose dtype=bfloat16, a smaller model or another device\n"
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
    logger = logging.getLogger("nuggets.models.language_model")
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, logger="nuggets.models.language_model"):
        yield events
    logger.removeHandler(handler)


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


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """What transformers writes for people to read."""
    handler = logging.getLogger("transformers").handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    written = io.StringIO()
    before = handler.setStream(written)
    yield written
    handler.setStream(before)


def cut_off(folder: Path, name: str, share: float) -> Path:
    path = folder / name
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return folder


def refusal_of(load: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refused:
        load()
    assert not can_help(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_weights_that_were_cut_off_are_named_before_anything_is_computed(tmp_path: Path, share: float) -> None:
    folder = cut_off(save_tiny_llama(tmp_path / "model"), "model.safetensors", share)
    files = find_language_model(str(folder))
    for load in (
        lambda: describe_model(Store(str(tmp_path / "store")), files),
        lambda: load_language_model(files, dtype="float32"),
    ):
        message = refusal_of(load)
        assert message.startswith(f"model='{folder}': its weights can't be read (")
        assert message.endswith("): copy it again")


@pytest.mark.parametrize("share", [0.001, 0.5])
def test_a_gguf_file_that_was_cut_off_is_named(tmp_path: Path, share: float) -> None:
    packaged = find_language_model(None)
    whole = Path(packaged.folder, str(packaged.gguf))
    with whole.open("rb") as file:
        (tmp_path / "cut.gguf").write_bytes(file.read(int(share * whole.stat().st_size)))
    files = find_language_model(str(tmp_path / "cut.gguf"))
    message = refusal_of(lambda: describe_model(Store(str(tmp_path / "store")), files))
    assert message.startswith(f"model='{files.name}': its weights can't be read (")


@pytest.mark.parametrize(("field", "value"), [("num_hidden_layers", 3), ("hidden_size", 96), ("vocab_size", 400)])
def test_weights_are_never_made_up(tmp_path: Path, shown: io.StringIO, field: str, value: int) -> None:
    """transformers draws at random what the files lack: cells would differ from process to process."""
    folder = save_tiny_llama(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    message = refusal_of(lambda: load_language_model(find_language_model(str(folder)), dtype="float32"))
    assert message.startswith(f"model='{folder}': its weights in {folder} are not those that its config.json describes")
    assert "REPORT" not in shown.getvalue()


def test_a_language_model_that_cannot_embed_is_no_encoder(tiny_model: Path, shown: io.StringIO) -> None:
    message = refusal_of(lambda: load_encoder(find_encoder(str(tiny_model))))
    assert message.startswith(
        f"encoder='{tiny_model}' is not a sentence-transformers model that can embed (Asking to pad"
    )
    assert "REPORT" not in shown.getvalue()


def test_an_encoder_whose_weights_were_cut_off_is_named(tmp_path: Path) -> None:
    folder = cut_off(save_tiny_encoder(tmp_path / "encoder"), "model.safetensors", 0.5)
    message = refusal_of(lambda: load_encoder(find_encoder(str(folder))))
    assert message.startswith(f"encoder='{folder}': its weights can't be read (")


def test_what_transformers_reports_of_an_encoder_that_works_is_shown(tmp_path: Path, shown: io.StringIO) -> None:
    load_encoder(find_encoder(str(save_tiny_encoder(tmp_path / "encoder"))))
    assert shown.getvalue().count("LOAD REPORT") == 1
    assert "lm_head.weight" in shown.getvalue()
