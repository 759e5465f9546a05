"""Models found on disk, and the errors for those that can't be used."""

import dataclasses
import hashlib
import os
import pickle
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from nuggets.errors import UsageError
from nuggets.models.files import ModelFiles, files_digest, find_encoder, find_language_model, with_digest
from nuggets.models.language_model import load_tokenizer

WEIGHTS = bytes(range(256)) * 8
CONTENTS = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
}


def folder(path: Path, *without: str, **contents: bytes) -> Path:
    """A model's folder, which has the names of the real files and enough content to be found and hashed."""
    path.mkdir(parents=True)
    for name, content in CONTENTS.items():
        if name not in without:
            (path / name).write_bytes(content)
    for name, content in contents.items():
        target = path / name.replace("__", "/").replace("_DOT_", ".")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    return path


def refusal(reference: Path | str) -> str:
    with pytest.raises(UsageError) as refused:
        find_language_model(str(reference))
    return str(refused.value)


def test_a_folder_with_config_safetensors_and_tokenizer_is_a_model(tmp_path, monkeypatch):
    model = folder(tmp_path / "model")
    assert find_language_model(str(model)) == ModelFiles(str(model), str(model))
    monkeypatch.chdir(tmp_path)
    assert find_language_model("./model") == ModelFiles("./model", str(model))
    assert find_language_model("model") == ModelFiles("model", str(model))


@pytest.mark.parametrize("tokenizer", ["tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json"])
def test_any_kind_of_tokenizer_will_do(tmp_path, tokenizer):
    model = folder(tmp_path / "model", "tokenizer.json", "tokenizer_config.json")
    (model / tokenizer).write_bytes(b"{}")
    assert find_language_model(str(model)).folder == str(model)


def test_a_folder_without_config_is_no_model(tmp_path):
    model = folder(tmp_path / "model", "config.json")
    assert refusal(model) == f"model='{model}' is not a model: there is no config.json in {model}"


def test_a_file_that_is_not_gguf_by_name_is_no_model(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(WEIGHTS)
    assert refusal(file) == (
        f"model='{file}' is a file: give the folder that holds it, with config.json and tokenizer, or a .gguf file"
    )


def test_pickled_weights_are_never_loaded(tmp_path):
    model = folder(tmp_path / "model", "model.safetensors", pytorch_model_DOT_bin=WEIGHTS)
    assert refusal(model).startswith(f"model='{model}' is a model with pickled weights only (pytorch_model.bin)")


def test_an_encoder_with_a_pickled_part_needs_safetensors_of_it(tmp_path):
    encoder = folder(tmp_path / "encoder", **{"2_Dense__pytorch_model_DOT_bin": WEIGHTS})
    with pytest.raises(UsageError) as refused:
        find_encoder(str(encoder))
    assert str(refused.value) == (
        f"encoder='{encoder}' has only pickled weights in {encoder}/2_Dense, which are never loaded"
    )
    (encoder / "2_Dense/model.safetensors").write_bytes(WEIGHTS)
    assert find_encoder(str(encoder)) == ModelFiles(str(encoder), str(encoder))


def test_an_encoder_needs_no_tokenizer_of_these_names_but_a_language_model_does(tmp_path):
    model = folder(tmp_path / "model", "tokenizer.json", "tokenizer_config.json")
    assert find_encoder(str(model)).folder == str(model)
    assert refusal(model) == (
        f"model='{model}' has no tokenizer: one of tokenizer.json, tokenizer.model, vocab.json, spiece.model, "
        f"tokenizer_config.json has to be in {model} (tokenizer.save_pretrained writes them)"
    )


@pytest.mark.parametrize("reference", ["/nowhere/model", "./nowhere", "../nowhere", "nowhere/deep/model", "a b"])
def test_a_missing_folder_is_refused_without_asking_anyone(tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    shown = f"'{reference}'" if reference.startswith("/") else f"'{reference}' ({os.path.abspath(reference)})"
    assert refusal(reference) == (
        f"model={shown}: there is no such folder or file: give model as a folder with config.json and "
        ".safetensors, a .gguf file, or the id of a model on the hub"
    )


def test_a_gguf_file_is_a_model_by_itself(tmp_path):
    file = tmp_path / "weights.Q8_0.GGUF"
    file.write_bytes(b"GGUF" + WEIGHTS)
    assert find_language_model(str(file)) == ModelFiles(str(file), str(tmp_path), "weights.Q8_0.GGUF")


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\3\4" + WEIGHTS])
def test_a_gguf_file_that_is_none_is_refused(tmp_path, content):
    file = tmp_path / "weights.gguf"
    file.write_bytes(content)
    assert refusal(file) == f"model='{file}' is not a GGUF file: its first bytes are not 'GGUF'"


def test_a_missing_gguf_file_is_refused(tmp_path):
    assert refusal(tmp_path / "weights.gguf") == f"model='{tmp_path}/weights.gguf': file not found"
    (tmp_path / "folder.gguf").mkdir()
    assert refusal(tmp_path / "folder.gguf") == f"model='{tmp_path}/folder.gguf': file not found"


def digest(path: Path) -> str:
    files = ModelFiles(str(path), str(path)) if path.is_dir() else find_language_model(str(path))
    return files_digest(files)


def test_a_copy_elsewhere_has_the_same_digest(tmp_path):
    model = folder(tmp_path / "model")
    (model / "README.md").write_text("no part of what the model computes")
    copy = Path(shutil.copytree(model, tmp_path / "deep/other name"))
    (copy / "README.md").write_text("changed")
    assert digest(copy) == digest(model)
    assert len(digest(model)) == 32


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("place", [0, -1])
def test_one_byte_of_weights_config_or_tokenizer_changes_the_digest(tmp_path, name, place):
    model = folder(tmp_path / "model")
    changed = Path(shutil.copytree(model, tmp_path / "changed"))
    content = bytearray((changed / name).read_bytes())
    content[place] ^= 1
    (changed / name).write_bytes(content)
    assert digest(changed) != digest(model)


def test_a_process_that_receives_the_digest_hashes_only_what_has_changed_since(tmp_path):
    model = folder(tmp_path / "model")
    files = with_digest(find_language_model(str(model)))
    assert files.hashed is not None
    foreign = dataclasses.replace(files.hashed, digest="computed elsewhere")
    received = pickle.loads(pickle.dumps(dataclasses.replace(files, hashed=foreign)))
    assert files_digest(received) == "computed elsewhere"
    os.utime(model / "model.safetensors", ns=(0, 0))
    assert files_digest(received) == digest(model) == files.hashed.digest


VALUE_FILES = (
    *("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tekken.json"),
    *(
        "tokenizer.model",
        "spiece.model",
        "qwen.tiktoken",
        "chat_template.jinja",
        "additional_chat_templates/tool.jinja",
    ),
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
)
FOREIGN_FILES = (
    *("eval_results.json", "all_results.json", "trainer_state.json", "data_config.json", "README.md", "LICENSE.txt"),
    *("requirements.txt", "notes.txt", "training_args.bin", "optimizer.pt", "convert.py", "modeling_own.py"),
    *("checkpoint-500/model.safetensors", "checkpoint-500/config.json", "onnx/model.onnx", "runs/events.json"),
)


def with_file(model: Path, name: str, content: bytes) -> Path:
    path = model / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return model


@pytest.mark.parametrize("name", VALUE_FILES)
def test_a_file_that_values_depend_on_changes_the_digest(tmp_path, name):
    model = folder(tmp_path / "model")
    digests = [digest(model), digest(with_file(model, name, b"[]")), digest(with_file(model, name, b"[ ]"))]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("name", FOREIGN_FILES)
def test_a_file_that_no_value_depends_on_leaves_the_digest(tmp_path, name):
    model = folder(tmp_path / "model")
    before = digest(model)
    assert digest(with_file(model, name, b"[]")) == before


def test_a_models_own_code_counts_where_it_is_trusted(tmp_path):
    model = folder(tmp_path / "model")
    files = find_language_model(str(model))
    plain = files_digest(files, trust_remote_code=True)
    assert plain == files_digest(files)
    with_file(model, "modeling_own.py", b"pass")
    assert files_digest(files) == plain != files_digest(files, trust_remote_code=True)


def test_layers_that_an_encoder_names_count_and_other_folders_do_not(tmp_path):
    model = folder(tmp_path / "model", modules_DOT_json=b'[{"path": ""}, {"path": "1_Dense"}]')
    files = find_encoder(str(model))
    digests = {files_digest(files)}
    for name in ("1_Dense/config.json", "1_Dense/model.safetensors"):
        with_file(model, name, b"{}")
        digests.add(files_digest(files))
    assert len(digests) == 3
    with_file(model, "2_Other/config.json", b"{}")
    assert files_digest(files) in digests


def test_the_digest_of_an_ordinary_folder_is_stable(tmp_path):
    model = folder(tmp_path / "model", generation_config_DOT_json=b"{}")
    total = hashlib.sha256()
    for path in sorted(model.iterdir()):
        total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    assert digest(model) == total.hexdigest()[:32]


def test_contents_that_change_places_change_the_digest(tmp_path):
    one = folder(tmp_path / "one", vocab_DOT_json=b"1", merges_DOT_txt=b"2")
    other = folder(tmp_path / "other", vocab_DOT_json=b"2", merges_DOT_txt=b"1")
    assert digest(one) != digest(other)


def test_a_gguf_file_has_the_same_digest_by_any_name_and_beside_anything(tmp_path):
    first, second, changed = (tmp_path / name for name in ("a.gguf", "b/c.gguf", "d.gguf"))
    second.parent.mkdir()
    for path in (first, second):
        path.write_bytes(b"GGUF" + WEIGHTS)
    changed.write_bytes(b"GGUF" + WEIGHTS[:-1] + b"\0")
    assert digest(first) == digest(second) != digest(changed)


def replace(path: Path, content: bytes) -> None:
    """Write a file anew, a second later: clocks of file systems are too coarse for a test's haste."""
    later = path.stat().st_mtime_ns + 1_000_000_000
    path.write_bytes(content)
    os.utime(path, ns=(later, later))


def test_a_model_that_is_replaced_in_its_folder_has_another_digest(tmp_path):
    model = folder(tmp_path / "model")
    before = digest(model)
    replace(model / "model.safetensors", WEIGHTS[::-1])
    assert digest(model) != before
    replace(model / "model.safetensors", WEIGHTS)
    assert digest(model) == before


def test_a_tokenizer_is_loaded_once_but_again_when_it_is_replaced_in_its_folder(tmp_path):
    def written(vocabulary: dict[str, int]) -> bytes:
        return Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")).to_str().encode()

    model = folder(tmp_path / "model", tokenizer_DOT_json=written({"[UNK]": 0, "word": 1}))
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    files = find_language_model(str(model))
    first = load_tokenizer(files)
    assert load_tokenizer(files) is first
    assert first("word")["input_ids"] == [1]
    replace(model / "tokenizer.json", written({"[UNK]": 0, "word": 2, "other": 1}))
    assert load_tokenizer(files)("word")["input_ids"] == [2]
