"""The safetensors files that hold a model's weights: which ones they are, and whether they are there and whole."""

from pathlib import Path

from nuggets.errors import InputError
from nuggets.models.folder_kind import read_json

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LFS_POINTER = b"version https://git-lfs"


def weight_files(model: str, folder: Path) -> list[Path]:
    """The files that transformers reads a model's weights from. `model` names it in messages, such as "model='x'".

    Raises InputError if a file is missing. Files beside them, such as copies in another format, are not read.
    """
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    try:
        named = read_json(folder / _INDEX)["weight_map"]
        shards = sorted({str(name) for name in named.values()})
    except FileNotFoundError:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        raise InputError(
            f"{model}: {folder} has neither {_SINGLE} nor {_INDEX}, only {', '.join(names[:3]) or 'other files'}: "
            "copy all of its files again"
        ) from None
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{model}: {folder / _INDEX} is damaged ({error}): copy it again") from error
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{model}: {len(missing)} of the {len(shards)} files of its weights are missing in {folder}, first "
            f"{missing[0]}: copy or download all of its files again"
        )
    return [folder / name for name in shards]


def check_weight_files(model: str, folder: Path) -> list[Path]:
    """The files of a model's weights. Raises InputError if one is missing or shorter than its header declares.

    Reads their headers only.
    """
    paths = weight_files(model, folder)
    from safetensors import SafetensorError, safe_open  # not at the top: this room's pure modules need no safetensors

    for path in paths:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise InputError(
                    f"{model}: {path} is a pointer of Git LFS, not the weights: run 'git lfs pull' in its folder"
                )
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise unreadable_weights(model, error) from error
    return paths


def unreadable_weights(model: str, error: Exception) -> InputError:
    """The error for weights that are not what their format prescribes."""
    return InputError(f"{model}: its weights can't be read ({error}): copy it again")
