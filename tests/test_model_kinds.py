"""Folders that hold something other than a causal language model: each is named as what it is, with what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import build_tokenizer, save_tiny_llama
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaForSequenceClassification,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from nuggets.errors import UsageError
from nuggets.models.files import find_encoder, find_language_model

_SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
Maker = Callable[[Path], Any]


def refusal(folder: Path, find: Callable[[str], object] = find_language_model) -> str:
    """The message about a folder, without the option and the path at its start."""
    with pytest.raises(UsageError) as refused:
        find(str(folder))
    message = str(refused.value)
    assert "\n" not in message
    _, found, rest = message.partition(f"='{folder}' ")
    assert found, message
    return rest


def with_files(*names: str, **contents: Any) -> Maker:
    """Makes a folder with files of these names, and JSON files with these contents."""

    def make(folder: Path) -> None:
        for name in (*names, *(f"{key}.json" for key in contents)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"content")
        for key, content in contents.items():
            (folder / f"{key}.json").write_text(json.dumps(content))

    return make


_LORA = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
_MERGE = "merge it into that model (PeftModel.from_pretrained, merge_and_unload, save_pretrained), and give the result"
_POOL = "give it as the pool, and a model here"
_EXPORT = "give the model that it was made from, with safetensors"
_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}

WITHOUT_MODEL: dict[str, tuple[Maker, str]] = {
    "nothing": (with_files(), "is an empty folder: check the path, or copy the model into it again"),
    "an adapter": (
        with_files("adapter_model.safetensors", "tokenizer.json", adapter_config=_LORA),
        f"is a PEFT adapter (LORA) of the model org/base, not a whole model: {_MERGE}",
    ),
    "an adapter with the configuration of its base": (
        with_files("adapter_model.safetensors", adapter_config=_LORA, config=_LLAMA),
        f"is a PEFT adapter (LORA) of the model org/base, not a whole model: {_MERGE}",
    ),
    "a pipeline": (
        with_files("unet/config.json", model_index={}),
        "is a diffusers pipeline, which makes images, video or sound: give a model of texts",
    ),
    "a dataset": (with_files("train/0.arrow", dataset_dict={}), f"is a dataset of Hugging Face datasets: {_POOL}"),
    "data files": (with_files("a.jsonl", "b.jsonl"), f"is a folder of data files (a.jsonl, b.jsonl): {_POOL}"),
    "an ONNX export": (with_files("model.onnx", config=_LLAMA), f"is an export for ONNX: {_EXPORT}"),
    "an ONNX export in a folder": (with_files("onnx/model.onnx", config=_LLAMA), f"is an export for ONNX: {_EXPORT}"),
    "an OpenVINO export": (with_files("openvino_model.xml"), f"is an export for OpenVINO: {_EXPORT}"),
    "a TensorFlow model": (with_files("tf_model.h5", config=_LLAMA), f"is an export for TensorFlow: {_EXPORT}"),
    "an original format": (
        with_files("consolidated.00.pth", params={}),
        "is a model in the original format of its authors (params.json), not in that of transformers: convert it with "
        "the script of its family in transformers, or take the version of the Hub with a config.json",
    ),
    "pickled weights": (
        with_files("pytorch_model.bin", "training_args.bin", config=_LLAMA),
        "is a model with pickled weights only (pytorch_model.bin), which are never loaded: convert them with "
        "transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
    ),
    "a configuration alone": (
        with_files("training_args.bin", config=_LLAMA),
        "has no .safetensors weights in {folder}: copy all of its files again, or convert pickled weights (.bin, .pt), "
        "which are never loaded, with save_pretrained",
    ),
    "a training": (
        with_files("checkpoint-90/config.json", "checkpoint-500/config.json", "runs/events"),
        "is the output folder of a training, with its models in subfolders (the last is checkpoint-500): give one of "
        "them, such as {folder}/checkpoint-500",
    ),
    "the cache of the Hub": (
        with_files("blobs/1", "refs/main", "snapshots/1f2e/config.json"),
        "is a folder with models in subfolders (1f2e): give {folder}/snapshots/1f2e",
    ),
    "GGUF files": (
        with_files("a.Q4_0.gguf", "a.Q8_0.gguf", config=_LLAMA),
        "is a folder of GGUF files (a.Q4_0.gguf, a.Q8_0.gguf): give one of the files, such as {folder}/a.Q4_0.gguf",
    ),
}


@pytest.mark.parametrize(("make", "message"), WITHOUT_MODEL.values(), ids=WITHOUT_MODEL.keys())
@pytest.mark.parametrize("find", [find_language_model, find_encoder])
def test_a_folder_without_weights_is_named_by_its_files(
    tmp_path: Path, make: Maker, message: str, find: Callable[[str], object]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    assert refusal(folder, find) == message.format(folder=folder)


def test_an_adapter_on_the_hub_is_named_before_its_weights_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "1f" * 20
    cached = tmp_path / "models--org--adapter"
    with_files(f"snapshots/{commit}/README.md")(cached)
    with_files(adapter_config=_LORA)(cached / "snapshots" / commit)
    with_files("refs/main")(cached)
    (cached / "refs/main").write_text(commit)
    with pytest.raises(UsageError) as refused:
        find_language_model("org/adapter")
    found = "is a PEFT adapter (LORA) of the model org/base, not a whole model"
    assert str(refused.value) == f"model='org/adapter' {found}: {_MERGE}"


def saved(model: Any) -> Maker:
    return lambda folder: model.save_pretrained(folder)


def llama(kind: Any) -> Maker:
    from transformers import LlamaConfig

    return saved(kind(LlamaConfig(**_SMALL, vocab_size=32)))


OTHER_MODELS: dict[str, tuple[Maker, str]] = {
    "an encoder": (saved(BertForMaskedLM(BertConfig(**_SMALL, vocab_size=32))), "an encoder (BertForMaskedLM)"),
    "a T5": (
        saved(T5ForConditionalGeneration(T5Config(d_model=16, d_ff=16, d_kv=8, num_layers=1, vocab_size=32))),
        "an encoder-decoder model (T5ForConditionalGeneration)",
    ),
    "a reward model": (
        llama(LlamaForSequenceClassification),
        "a sequence classifier, such as a reward model or a cross-encoder (LlamaForSequenceClassification)",
    ),
    "a model without head": (llama(LlamaModel), "a model without a language-model head (LlamaModel)"),
    "a vision model": (saved(ViTModel(ViTConfig(**_SMALL, image_size=32))), "a model of images (ViTModel)"),
}


@pytest.mark.parametrize(("make", "what"), OTHER_MODELS.values(), ids=OTHER_MODELS.keys())
def test_another_model_is_named_by_its_configuration(tmp_path: Path, make: Maker, what: str) -> None:
    make(tmp_path)
    build_tokenizer(True, None).save_pretrained(tmp_path)
    assert refusal(tmp_path) == (
        f"is {what}: give a causal language model, whose config.json names an architecture that ends in ForCausalLM"
    )


def changed(folder: Path, **settings: Any) -> Path:
    """A tiny Llama with other settings in its config.json."""
    save_tiny_llama(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
    ],
)
def test_a_quantised_export_is_named_by_its_method(tmp_path: Path, settings: dict[str, Any], method: str) -> None:
    assert refusal(changed(tmp_path, **settings)) == (
        f"is a model quantised by {method}, and of quantised models only GGUF files are loaded: give the model that it "
        "was made from, or a GGUF file of it"
    )


def test_an_encoder_that_looks_ahead_is_refused_although_transformers_would_load_it(tmp_path: Path) -> None:
    folder = changed(tmp_path, model_type="bert", architectures=["BertLMHeadModel"])
    assert refusal(folder).startswith("is an encoder (BertLMHeadModel): give a causal language model")
    assert find_language_model(
        str(changed(tmp_path, model_type="bert", architectures=["BertLMHeadModel"], is_decoder=True))
    )


def test_a_sentence_transformers_folder_is_an_encoder_and_no_language_model(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    assert refusal(tmp_path) == (
        "is a sentence-transformers encoder: give it as encoder, and a causal language model here"
    )
    assert find_encoder(str(tmp_path))


def test_an_adapter_beside_the_weights_is_refused_because_it_may_or_may_not_be_meant(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    with_files("adapter_model.safetensors", adapter_config=_LORA)(tmp_path)
    assert refusal(tmp_path) == (
        "is a model with a PEFT adapter (adapter_config.json) beside its weights, and it is not certain which is "
        "meant: merge the adapter into the model (merge_and_unload, then save_pretrained), or move the adapter's files "
        "away"
    )


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    assert refusal(tmp_path) == (
        "is a folder with a damaged config.json (it holds a JSON list, not an object): copy it again"
    )


def test_code_in_the_folder_may_make_any_architecture_a_causal_model(tmp_path: Path) -> None:
    own = {"AutoModelForCausalLM": "modeling_own.OwnModel"}
    assert find_language_model(str(changed(tmp_path, architectures=["OwnModel"], auto_map=own)))


def test_a_part_of_a_gguf_file_is_refused(tmp_path: Path) -> None:
    part = tmp_path / "m-00001-of-00002.gguf"
    part.write_bytes(b"GGUF")
    assert refusal(part) == (
        "is one of 2 parts of a GGUF file: join them with 'llama-gguf-split --merge', and give the result"
    )
    whole = part.rename(tmp_path / "m-00001-of-00001.gguf")
    assert find_language_model(str(whole))
