"""Models that can't score a pool are refused before a row of it is read, in one line that says what to do."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from tiny_models import CONFIGS, build_model, build_tokenizer, save_tiny_encoder, save_tiny_llama
from transformers import AutoModelForCausalLM, MixtralConfig

from nuggets.config.configs import CurateConfig
from nuggets.devices.capacity import Capacity, device_capacities, machine_memory
from nuggets.errors import InputError, NuggetsError, UsageError
from nuggets.models.files import find_language_model
from nuggets.models.model_card import check_memory, describe_model
from nuggets.models.structure import read_structure
from nuggets.steps.prepare import check_config, prepare_run
from nuggets.store.store import Store

_SHARDS = {"max_shard_size": "100KB"}  # several files


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model that a test may spoil."""
    return save_tiny_llama(tmp_path / "model")


@pytest.fixture
def config(tmp_path: Path, pool_file: Path, model: Path) -> CurateConfig:
    """A run with that model, and with anchors from the pool's own file, so that no encoder is needed."""
    given: dict[str, Any] = {"pool": str(pool_file), "anchor_file": str(pool_file), "model": str(model)}
    return CurateConfig(**given, store=str(tmp_path / "store"), devices="cpu")


def refusal(config: CurateConfig, act: Callable[[CurateConfig], object] = prepare_run) -> str:
    """The message about the configuration's model. The store has nothing of the pool or of a run."""
    with pytest.raises(NuggetsError) as refused:
        act(config)
    assert not refused.value.retry_can_help
    store = Store(config.store)
    assert [store.list(folder) for folder in ("pools", "runs", "models")] == [[], [], []]
    message = str(refused.value)
    assert "\n" not in message
    return message


def with_settings(model: Path, **settings: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def in_shards(model: Path) -> list[Path]:
    """The model's weights in several files."""
    (model / "model.safetensors").unlink()
    build_model("llama_grouped").save_pretrained(model, **_SHARDS)
    shards = sorted(model.glob("model-*.safetensors"))
    assert len(shards) > 1
    return shards


@pytest.mark.parametrize("act", [check_config, prepare_run])
def test_a_missing_file_of_the_weights_is_named(
    config: CurateConfig, model: Path, act: Callable[[CurateConfig], object]
) -> None:
    shards = in_shards(model)
    act(config)
    for shard in shards[1:]:
        shard.unlink()
    with pytest.raises(InputError) as refused:
        act(config)
    assert str(refused.value) == (
        f"model='{model}': {len(shards) - 1} of the {len(shards)} files of its weights are missing in {model}, first "
        f"{shards[1].name}: copy or download all of its files again"
    )


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": []}'])
def test_a_damaged_index_of_the_weights_is_named(config: CurateConfig, model: Path, content: str) -> None:
    in_shards(model)
    (model / "model.safetensors.index.json").write_text(content)
    message = refusal(config, check_config)
    assert message.startswith(f"model='{model}': {model}/model.safetensors.index.json is damaged (")


def test_shards_without_their_index_are_named(config: CurateConfig, model: Path) -> None:
    first = in_shards(model)[0]
    (model / "model.safetensors.index.json").unlink()
    message = refusal(config, check_config)
    assert message.startswith(
        f"model='{model}': {model} has neither model.safetensors nor model.safetensors.index.json, only {first.name}"
    )


def test_a_pointer_of_git_lfs_is_named(config: CurateConfig, model: Path) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 9\n")
    assert refusal(config, check_config) == (
        f"model='{model}': {model}/model.safetensors is a pointer of Git LFS, not the weights: run 'git lfs pull' in "
        "its folder"
    )


def test_tokens_without_a_row_in_the_embedding_are_named(config: CurateConfig, model: Path) -> None:
    tokenizer = build_tokenizer(True, None)
    tokenizer.add_tokens(["<|begin_turn|>", "<|end_turn|>"], special_tokens=True)
    tokenizer.save_pretrained(model)
    rows = len(tokenizer) - 2
    build_model("llama_grouped").resize_token_embeddings(rows)
    smaller = build_model("llama_grouped")
    smaller.resize_token_embeddings(rows)
    smaller.save_pretrained(model)
    assert refusal(config) == (
        f"model='{model}': the tokenizer has {rows + 2} tokens, the model's embedding {rows} rows: 2 tokens, first "
        f"'<|begin_turn|>' (id {rows}), have no row. Give the model the tokenizer that it was trained with, or resize "
        "it (model.resize_token_embeddings), train it and save it"
    )
    smaller.resize_token_embeddings(rows + 9)  # rows without tokens are usual
    smaller.save_pretrained(model)
    assert prepare_run(config).setup.files.folder == str(model)


@pytest.mark.parametrize("family", [*CONFIGS, "mixture"])
def test_a_model_of_any_family_passes_the_check_of_its_structure(model: Path, family: str) -> None:
    """Among them some whose weights are stored under other names than those of their class, or merged on loading."""
    sizes = {"vocab_size": 384, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    mixture = MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, num_local_experts=3)
    built = AutoModelForCausalLM.from_config(mixture) if family == "mixture" else build_model(family)
    built.save_pretrained(model)
    structure = read_structure(find_language_model(str(model)))
    assert structure.parameters == sum(weight.numel() for weight in built.parameters())
    assert (structure.rows, structure.architecture) == (384, built.config.model_type)


@pytest.mark.parametrize(("field", "value"), [("num_hidden_layers", 3), ("hidden_size", 96), ("vocab_size", 400)])
def test_weights_of_another_configuration_are_named_without_being_loaded(
    config: CurateConfig, model: Path, field: str, value: int
) -> None:
    with_settings(model, **{field: value})
    message = refusal(config)
    assert message.startswith(f"model='{model}': its weights in {model} are not those that its config.json describes")


def test_weights_without_a_head_are_named(config: CurateConfig, model: Path) -> None:
    build_model("llama_grouped").model.save_pretrained(model)
    with_settings(model, architectures=["LlamaForCausalLM"])
    assert refusal(config) == (
        f"model='{model}' is a model without a language-model head (lm_head.weight is not among its weights in "
        f"{model}): give a causal language model"
    )


def test_a_type_that_transformers_does_not_know_is_named(config: CurateConfig, model: Path) -> None:
    with_settings(model, model_type="from_next_year")
    message = refusal(config)
    assert message.startswith(f"model='{model}' is of a type that transformers ")
    assert message.endswith("/config.json): install a newer transformers, or give another model")


def test_a_type_that_is_not_causal_is_named_where_the_configuration_names_no_architecture(
    config: CurateConfig, model: Path
) -> None:
    with_settings(model, model_type="clip", architectures=None)
    message = refusal(config)
    assert message.startswith(f"model='{model}' is a model of type clip, which transformers ")


def test_code_that_is_not_trusted_is_named(config: CurateConfig, model: Path) -> None:
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    with_settings(model, model_type="own", architectures=["OwnModel"], auto_map=own)
    assert refusal(config) == (
        f"model='{model}' needs Python code from its own folder, which is not run: read that code, then name the model "
        "with trust_remote_code (--trust-remote-code), or give another model"
    )


@pytest.mark.parametrize("settings", [{"num_attention_heads": 5}, {"rope_parameters": 7}, {"hidden_act": "none"}])
def test_any_error_of_the_library_becomes_one_line(config: CurateConfig, model: Path, settings: Any) -> None:
    with_settings(model, **settings)
    assert refusal(config).startswith(f"model='{model}'")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_named(config: CurateConfig, model: Path, content: bytes) -> None:
    (model / "tokenizer.json").write_bytes(content)
    assert refusal(config).startswith(f"model='{model}': its tokenizer in {model} can't be loaded (")


def gguf_file(path: Path, architecture: str, *tensors: str) -> Path:
    """A GGUF file of some architecture with small tensors of these names."""
    writer = GGUFWriter(path, architecture)
    for name in tensors:
        writer.add_tensor(name, np.zeros((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_of_an_architecture_that_transformers_does_not_load_is_named(
    config: CurateConfig, tmp_path: Path
) -> None:
    path = gguf_file(tmp_path / "next.gguf", "from_next_year", "token_embd.weight")
    assert refusal(replace(config, model=str(path))).startswith(
        f"model='{path}' is a GGUF file of architecture from_next_year, which transformers "
    )


def test_a_gguf_file_without_a_language_model_is_named(config: CurateConfig, tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "lora.gguf", "llama", "blk.0.attn_q.weight.lora_a")
    assert refusal(replace(config, model=str(path))) == (
        f"model='{path}' is a GGUF file of architecture llama without token embeddings (token_embd.weight), such as an "
        "adapter or the vision part of a model: give the GGUF file of a whole language model"
    )


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (40, "its window of 40 tokens is too small: in profile plain the shortest demonstration and anchor take "),
        (96, None),
    ],
)
def test_a_window_that_is_too_small_for_a_demonstration_and_an_anchor_is_named(
    config: CurateConfig, model: Path, context: int, message: str | None
) -> None:
    with_settings(model, max_position_embeddings=context)
    if message is None:
        assert prepare_run(config).setup.limits.anchor == context // 2
        return
    with pytest.raises(InputError) as refused:
        prepare_run(config)
    assert str(refused.value).startswith(f"model='{model}': {message}")
    assert str(refused.value).endswith(" more are needed: give a model with a longer window")
    assert Store(config.store).list("pools") == Store(config.store).list("runs") == []


@pytest.mark.parametrize("field", ["demonstration_tokens", "anchor_tokens"])
def test_a_limit_below_what_the_profile_itself_takes_is_named(config: CurateConfig, field: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}=3 is too small: in profile plain of model='.*: give at least "):
        prepare_run(replace(config, **{field: 3}))


def test_named_templates_without_a_default_are_refused_and_plain_scores_without_them(
    config: CurateConfig, model: Path
) -> None:
    turns = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    tokenizer = build_tokenizer(True, None)
    tokenizer.chat_template = {"tool_use": turns, "rag": turns}
    tokenizer.save_pretrained(model)
    with pytest.raises(InputError) as refused:
        prepare_run(config)
    assert str(refused.value) == (
        "profile=chat: the model's tokenizer has the chat templates rag, tool_use, and none is called default: use "
        "profile plain"
    )
    assert Store(config.store).list("pools") == Store(config.store).list("runs") == []
    assert prepare_run(replace(config, profile="plain")).setup.profile == "plain"


def test_a_model_is_checked_once_per_store_and_again_when_it_has_changed(config: CurateConfig, model: Path) -> None:
    prepare_run(config)
    store = Store(config.store)
    (card,) = store.list("models")
    store.write(card, store.read(card).replace(b'"context": 2048', b'"context": 1024'))
    assert describe_model(store, find_language_model(str(model))).context == 1024
    with_settings(model, num_hidden_layers=3)
    with pytest.raises(InputError, match="are not those that its config.json describes"):
        prepare_run(config)
    assert store.list("models") == [card]


def test_an_encoder_that_can_not_embed_is_refused_before_the_pool_is_read(
    config: CurateConfig, model: Path, tmp_path: Path
) -> None:
    config = replace(config, anchor_file=None, encoder=str(model))
    with pytest.raises(InputError, match=f"^encoder='{model}' is not a sentence-transformers model that can embed"):
        prepare_run(config)
    store = Store(config.store)
    assert store.list("pools") == store.list("runs") == []
    assert len(store.list("models")) == 1
    prepare_run(replace(config, encoder=str(save_tiny_encoder(tmp_path / "encoder"))))
    assert len(store.list("models")) == 2


def test_a_model_larger_than_the_memory_of_its_device_is_refused(config: CurateConfig, model: Path) -> None:
    card = describe_model(Store(config.store), find_language_model(str(model)))
    assert card.parameters == sum(weight.numel() for weight in build_model("llama_grouped").parameters())
    room = 4 * card.parameters
    check_memory(card, "float32", [Capacity("GPU 0", room, 1)])
    check_memory(card, "bfloat16", [Capacity("GPU 0", room, 2)])
    with pytest.raises(InputError, match=r"in float32 does not fit: .* GPU 1 has 0.00 GB for 1 of them: choose "):
        check_memory(card, "float32", [Capacity("GPU 0", room, 1), Capacity("GPU 1", room - 1, 1)])


def test_more_workers_than_the_machine_has_memory_for_are_refused(config: CurateConfig, model: Path) -> None:
    memory = machine_memory()
    assert memory is not None and memory > 1 << 28
    assert device_capacities("cpu", 3) == (Capacity("this machine", memory, 3),)
    with pytest.raises(InputError, match=r"does not fit: .* this machine has .* of them: choose"):
        prepare_run(replace(config, workers=memory // 1000))


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("spoil", ["an empty folder", "tokens beyond the embedding", "an encoder that can't embed"])
def test_the_command_refuses_a_wrong_model_in_one_line_and_reads_nothing_of_the_pool(
    tmp_path: Path, model: Path, pool_file: Path, cli: Callable[..., CompletedProcess[str]], spoil: str
) -> None:
    options: list[object] = ["--anchor-file", pool_file]
    expected = (1, f"error: model='{model}': the tokenizer has ")
    if spoil == "an empty folder":
        model = tmp_path / "empty"
        model.mkdir()
        expected = (2, f"error: model='{model}' is an empty folder: check the path")
    elif spoil == "tokens beyond the embedding":
        tokenizer = build_tokenizer(True, None)
        tokenizer.add_tokens([f"<{number}>" for number in range(300)])
        tokenizer.save_pretrained(model)
    else:
        options = ["--encoder", model]
        expected = (1, f"error: encoder='{model}' is not a sentence-transformers model that can embed")
    store = tmp_path / "store"
    done = cli("curate", pool_file, "--model", model, "--store", store, *options)
    assert (done.returncode, done.stdout) == (expected[0], "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith(expected[1])
    assert "Traceback" not in done.stderr and "run again" not in done.stderr
    assert not (store / "pools").exists() and not (store / "runs").exists()


def test_a_wrong_model_is_named_before_a_wrong_pool(config: CurateConfig) -> None:
    with pytest.raises(UsageError, match="^model='/nowhere/model'"):
        check_config(replace(config, model="/nowhere/model", pool="/nowhere/pool.jsonl"))
