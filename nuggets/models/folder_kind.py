"""What a folder is that holds no weights which transformers can load, by the names of its files. Reads no weights."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_EXPORTS = {
    "ONNX": ("*.onnx", "onnx/*.onnx"),
    "OpenVINO": ("openvino_model.xml",),
    "TensorFlow Lite": ("*.tflite",),
    "TensorFlow": ("tf_model.h5",),
    "Flax": ("flax_model.msgpack",),
}
_DATA = ("*.jsonl", "*.parquet", "*.csv", "*.arrow", "data/*.parquet")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TRAINER_FILES = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state*.pth")  # no weights
_SHOWN = 3  # names in a message


@dataclass(frozen=True, slots=True)
class Kind:
    """What a folder is, and what the user can do."""

    what: str
    advice: str


def kind_without_config(folder: Path) -> Kind | None:
    """What a folder without a config.json is; None if nothing is known about it."""
    if not any(folder.iterdir()):
        return Kind("an empty folder", "check the path, or copy the model into it again")
    rules: tuple[Callable[[Path], Kind | None], ...] = (
        _pipeline,
        _dataset,
        _adapter,
        _checkpoints,
        _nested,
        _gguf,
        _original,
        _export,
        _data,
    )
    return next((kind for rule in rules if (kind := rule(folder))), None)


def kind_without_safetensors(folder: Path) -> Kind | None:
    """What a folder is that has a config.json and no safetensors; None if nothing is known about it."""
    pickled = [
        name for name in _matching(folder, _PICKLED) if not any(Path(name).match(other) for other in _TRAINER_FILES)
    ]
    if pickled:
        return Kind(
            f"a model with pickled weights only ({_listed(pickled)}), which are never loaded",
            "convert them with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
        )
    rules: tuple[Callable[[Path], Kind | None], ...] = (_pipeline, _adapter, _export, _checkpoints, _gguf)
    return next((kind for rule in rules if (kind := rule(folder))), None)


def adapter_beside_weights(folder: Path) -> Kind | None:
    """The kind of a whole model with an adapter in its folder, which transformers applies or ignores."""
    if not (folder / "adapter_config.json").is_file():
        return None
    return Kind(
        "a model with a PEFT adapter (adapter_config.json) beside its weights, and it is not certain which is meant",
        "merge the adapter into the model (merge_and_unload, then save_pretrained), or move the adapter's files away",
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError for anything else."""
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"it holds a JSON {type(content).__name__}, not an object")
    return content


def _pipeline(folder: Path) -> Kind | None:
    if not (folder / "model_index.json").is_file():
        return None
    return Kind("a diffusers pipeline, which makes images, video or sound", "give a model of texts")


def _dataset(folder: Path) -> Kind | None:
    if not any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        return None
    return Kind("a dataset of Hugging Face datasets", "give it as the pool, and a model here")


def _adapter(folder: Path) -> Kind | None:
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        settings = read_json(path)
    except ValueError:
        settings = {}
    base = settings.get("base_model_name_or_path")
    return Kind(
        f"a PEFT adapter ({settings.get('peft_type') or 'of unknown type'}) of the model "
        f"{base or 'that it was trained on'}, not a whole model",
        "merge it into that model (PeftModel.from_pretrained, merge_and_unload, save_pretrained), and give the result",
    )


def _checkpoints(folder: Path) -> Kind | None:
    numbers = [name.removeprefix("checkpoint-") for name in _matching(folder, ("checkpoint-*",))]
    latest = max(map(int, filter(str.isdecimal, numbers)), default=None)
    if latest is None:
        return None
    return Kind(
        f"the output folder of a training, with its models in subfolders (the last is checkpoint-{latest})",
        f"give one of them, such as {folder / f'checkpoint-{latest}'}",
    )


def _nested(folder: Path) -> Kind | None:
    """A folder with a model one level below, or in the Hub's cache, where the files of a model lie in snapshots/."""
    models = [path.parent for pattern in ("*/config.json", "snapshots/*/config.json") for path in folder.glob(pattern)]
    if not models:
        return None
    return Kind(f"a folder with models in subfolders ({_listed(path.name for path in models)})", f"give {max(models)}")


def _gguf(folder: Path) -> Kind | None:
    files = _matching(folder, ("*.gguf",))
    if not files:
        return None
    return Kind(f"a folder of GGUF files ({_listed(files)})", f"give one of the files, such as {folder / files[0]}")


def _original(folder: Path) -> Kind | None:
    if not (folder / "params.json").is_file():
        return None
    return Kind(
        "a model in the original format of its authors (params.json), not in that of transformers",
        "convert it with the script of its family in transformers, or take the version of the Hub with a config.json",
    )


def _export(folder: Path) -> Kind | None:
    for name, patterns in _EXPORTS.items():
        if _matching(folder, patterns):
            return Kind(f"an export for {name}", "give the model that it was made from, with safetensors")
    return None


def _data(folder: Path) -> Kind | None:
    files = _matching(folder, _DATA)
    if not files:
        return None
    return Kind(f"a folder of data files ({_listed(files)})", "give it as the pool, and a model here")


def _matching(folder: Path, patterns: Iterable[str]) -> list[str]:
    return sorted({path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)})


def _listed(names: Iterable[str]) -> str:
    known = sorted(names)
    return ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
