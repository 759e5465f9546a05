"""Load a language model and its tokenizer from files."""

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from nuggets.devices.devices import has_gpu
from nuggets.engine.interface import LanguageModel
from nuggets.errors import InputError
from nuggets.models.cache import loaded_model, reading_weights, unreadable_weights
from nuggets.models.files import ModelFiles, files_digest
from nuggets.models.prompts import default_profile
from nuggets.store.records import read_record, write_record
from nuggets.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a run needs to know about a model before it loads any weights."""

    FORMAT: ClassVar[int] = 1
    name: str
    digest: str
    architecture: str
    context: int  # tokens
    default_profile: str


def describe_model(store: Store, files: ModelFiles, *, trust_remote_code: bool = False) -> ModelCard:
    """The card of a model, from the store if it is there: reading a tokenizer can take seconds."""
    digest = files_digest(files, trust_remote_code=trust_remote_code)
    path = f"models/{digest}.json"
    if store.exists(path):
        return replace(read_record(store, path, ModelCard), name=files.name)
    from transformers import AutoConfig

    _quiet()
    try:
        with reading_weights(f"model='{files.name}'"):
            _check_weights(files)
            config = AutoConfig.from_pretrained(**_location(files), trust_remote_code=trust_remote_code)
            config = config.get_text_config()
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"model '{files.name}' in {files.folder} can't be read: {error}") from error
    tokenizer = load_tokenizer(files, trust_remote_code=trust_remote_code)
    context = getattr(config, "max_position_embeddings", None) or 2048
    card = ModelCard(files.name, digest, config.model_type, context, default_profile(tokenizer))
    write_record(store, path, card)
    return card


def _check_weights(files: ModelFiles) -> None:
    """Raise InputError if a weights file is shorter than its header declares."""
    if files.gguf:
        from gguf import GGUFReader

        try:
            GGUFReader(Path(files.folder, files.gguf))
        except (ValueError, IndexError) as error:
            raise unreadable_weights(f"model='{files.name}'", error) from error
        return
    from safetensors import safe_open

    for path in sorted(Path(files.folder).glob("*.safetensors")):
        with safe_open(path, framework="numpy"):
            pass


def load_tokenizer(files: ModelFiles, *, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer; kept for the life of the process, or until its files change."""
    digest = files_digest(files, trust_remote_code=trust_remote_code)
    return _tokenizer(files, digest, trust_remote_code)


@lru_cache(maxsize=1)
def _tokenizer(files: ModelFiles, _digest: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    _quiet()
    try:
        return AutoTokenizer.from_pretrained(**_location(files), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"the tokenizer of model '{files.name}' in {files.folder} can't be loaded: {error}") from error


def load_language_model(
    files: ModelFiles, *, dtype: str, kv_iter: int = 1, trust_remote_code: bool = False
) -> LanguageModel:
    """The model with its engine, on the GPU if there is one; kept until another model is loaded or its files change."""
    digest = files_digest(files, trust_remote_code=trust_remote_code)
    key = ("language model", files, digest, dtype, kv_iter, trust_remote_code)
    model: LanguageModel = loaded_model(key, lambda: _load(files, dtype, kv_iter, trust_remote_code))
    return model


def _load(files: ModelFiles, dtype: str, kv_iter: int, trust_remote_code: bool) -> LanguageModel:
    import torch
    from transformers import AutoModelForCausalLM

    from nuggets.engine.choose import open_engine
    from nuggets.engine.memory import free_bytes, is_out_of_memory, no_room_for

    _quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = free_bytes(device)  # before loading: a failed attempt does not free its memory at once
    options: dict[str, Any] = {} if files.gguf else {"use_safetensors": True}
    try:
        with reading_weights(f"model='{files.name}'"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **_location(files),
                **options,
                dtype=getattr(torch, dtype),
                device_map={"": device},  # tensor by tensor, so that the host needs no room for all of them
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report lists them
            )
            model, report = loaded
            _check_report(files, report)
        model = model.to(device)  # a model's own code may have put parts elsewhere
    except InputError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"model '{files.name}' in {files.folder} can't be loaded: {error}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        weights = _weight_bytes(files, dtype, trust_remote_code)
        raise no_room_for(f"model='{files.name}' in {dtype}", weights, device, free=free) from error
    logger.info("loaded %s (%s) on %s in %s", files.name, type(model).__name__, device, dtype)
    return open_engine(model, kv_iter=kv_iter)


def _check_report(files: ModelFiles, report: Any) -> None:
    """Raise InputError if weights were initialized at random, because the files hold none of their name and shape."""
    absent = sorted(report["missing_keys"]) + sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise InputError(
            f"model='{files.name}': its weights in {files.folder} are not those that its config.json describes "
            f"(without any that fit: {', '.join(absent[:3])}{more}): copy all of its files again"
        )


def _weight_bytes(files: ModelFiles, dtype: str, trust_remote_code: bool) -> int:
    """Bytes of the weights in a number format, computed without loading them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(**_location(files), trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
    return sum(weight.nbytes for weight in model.parameters())


def resolve_dtype(dtype: str, devices: str) -> str:
    """The number format that `auto` means on this machine's devices."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if devices != "cpu" and has_gpu() else "float32"


def _location(files: ModelFiles) -> dict[str, Any]:
    return {"pretrained_model_name_or_path": files.folder, **({"gguf_file": files.gguf} if files.gguf else {})}


def _quiet() -> None:
    """Switch off the library's progress bars, which fill the logs of a scheduler."""
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()
