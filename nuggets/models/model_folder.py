"""The folder of a model by the name that the user gives: on disk, in a package, or on the Hub."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from nuggets.errors import UsageError
from nuggets.models.config_kind import kind_of_config, kind_of_quantisation
from nuggets.models.file_names import DOWNLOADED, MARKERS, TOKENIZERS
from nuggets.models.folder_kind import (
    Kind,
    adapter_beside_weights,
    kind_without_config,
    kind_without_safetensors,
    read_json,
)
from nuggets.models.library_errors import one_line
from nuggets.store.user_address import with_full_path

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*|[\w-]+")  # not ./model: a path is never looked up on the Hub


def language_model_folder(reference: str) -> Path:
    """The folder of a causal language model. Raises UsageError that names what it is, if it is something else."""
    folder = _model_folder("model", reference, _kind_of_language_model)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UsageError(
            f"model='{reference}' has no tokenizer: one of {', '.join(TOKENIZERS)} has to be in {folder} "
            "(tokenizer.save_pretrained writes them)"
        )
    return folder


def encoder_folder(reference: str) -> Path:
    """The folder of an encoder. Raises UsageError that names what it is, if it is something else."""
    folder = _model_folder("encoder", reference, _kind_of_encoder)
    pickled = [path.parent for path in folder.glob("*/pytorch_model.bin")]
    unsafe = [part for part in pickled if not (part / "model.safetensors").is_file()]
    if unsafe:
        raise UsageError(f"encoder='{reference}' has only pickled weights in {unsafe[0]}, which are never loaded")
    return folder


def package_folder(package: str, option: str, install: str) -> Path:
    """The folder of an installed package. Raises UsageError with the command that installs it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"no {option} is given and the default one is not installed: run '{install}', or name one with --{option} "
            "(a folder or a hub id)"
        )
    return Path(spec.origin).parent


def _model_folder(option: str, reference: str, kind_of_config_file: Callable[[Path], Kind | None]) -> Path:
    """A folder with a config.json of the right kind, and with safetensors."""
    folder = Path(reference)
    is_local = folder.exists()
    if not is_local:
        folder = _fetch(option, reference, MARKERS)
    if folder.is_file():
        raise UsageError(
            f"{option}='{reference}' is a file: give the folder that holds it, with config.json and tokenizer, or a "
            ".gguf file"
        )
    if not (folder / "config.json").is_file():
        _refuse(option, reference, kind_without_config(folder))
        raise UsageError(f"{option}='{reference}' is not a model: there is no config.json in {folder}")
    if is_local:
        _check_has_weights(option, reference, folder)
    _refuse(option, reference, adapter_beside_weights(folder) or kind_of_config_file(folder))
    if not is_local:
        folder = _fetch(option, reference, DOWNLOADED)
        _check_has_weights(option, reference, folder)
    return folder.resolve()


def _check_has_weights(option: str, reference: str, folder: Path) -> None:
    if [path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")]:
        return
    _refuse(option, reference, kind_without_safetensors(folder))
    raise UsageError(
        f"{option}='{reference}' has no .safetensors weights in {folder}: copy all of its files again, or convert "
        "pickled weights (.bin, .pt), which are never loaded, with save_pretrained"
    )


def _kind_of_language_model(folder: Path) -> Kind | None:
    """What a folder with a config.json is, if it is no causal language model."""
    try:
        config = read_json(folder / "config.json")
    except ValueError as error:
        return Kind(f"a folder with a damaged config.json ({error})", "copy it again")
    if (folder / "modules.json").is_file():
        return Kind("a sentence-transformers encoder", "give it as encoder, and a causal language model here")
    return kind_of_quantisation(config) or kind_of_config(config)


def _kind_of_encoder(folder: Path) -> Kind | None:
    """What a folder with a config.json is, if it is no encoder. Any model of texts may be one."""
    try:
        read_json(folder / "config.json")
    except ValueError as error:
        return Kind(f"a folder with a damaged config.json ({error})", "copy it again")
    return None


def _refuse(option: str, reference: str, kind: Kind | None) -> None:
    if kind is not None:
        raise UsageError(f"{option}='{reference}' is {kind.what}: {kind.advice}")


def _fetch(option: str, reference: str, patterns: tuple[str, ...]) -> Path:
    """The local snapshot of the files of a model on the Hub, downloaded if they are not cached."""
    advice = (
        f"give {option} as a folder with config.json and .safetensors, a .gguf file, or the id of a model on the hub"
    )
    if not _HUB_ID.fullmatch(reference):
        raise UsageError(f"{option}={with_full_path(reference)}: there is no such folder or file: {advice}")
    from huggingface_hub import snapshot_download  # imported here, because it takes a second that most runs don't need

    try:
        return Path(snapshot_download(reference, allow_patterns=list(patterns)))
    except Exception as error:  # the Hub's client raises many unrelated types
        raise UsageError(
            f"{option}={with_full_path(reference)} is not a local folder and could not be downloaded from the Hub "
            f"({one_line(error)}): {advice}"
        ) from error
