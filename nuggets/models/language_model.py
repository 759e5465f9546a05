"""Load a language model and its tokenizer from files."""

import logging
from functools import lru_cache
from typing import Any

from nuggets.devices.devices import has_gpu
from nuggets.engine.interface import LanguageModel
from nuggets.errors import InputError
from nuggets.models.cache import loaded_model
from nuggets.models.files import FilesState, ModelFiles, files_digest, files_state
from nuggets.models.library_errors import LIBRARY_ERRORS, one_line
from nuggets.models.loading_report import check_report, reading_weights
from nuggets.models.structure import location

logger = logging.getLogger(__name__)


def load_tokenizer(files: ModelFiles, *, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer; kept for the life of the process, or until its files change."""
    return _tokenizer(files, files_state(files, trust_remote_code=trust_remote_code), trust_remote_code)


@lru_cache(maxsize=1)
def _tokenizer(files: ModelFiles, _state: FilesState, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(**location(files), trust_remote_code=trust_remote_code)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise InputError(
            f"model='{files.name}': its tokenizer in {files.folder} can't be loaded ({one_line(error)}): copy the "
            "tokenizer's files again, or install the package that is named"
        ) from error


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

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = free_bytes(device)  # before loading: a failed attempt does not free its memory at once
    options: dict[str, Any] = {} if files.gguf else {"use_safetensors": True}
    try:
        with reading_weights(f"model='{files.name}'"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **location(files),
                **options,
                dtype=getattr(torch, dtype),
                device_map={"": device},  # tensor by tensor, so that the host needs no room for all of them
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report lists them
            )
            model, report = loaded
            check_report(files, report)
        model = model.to(device)  # a model's own code may have put parts elsewhere
    except InputError:
        raise
    except LIBRARY_ERRORS as error:
        raise InputError(
            f"model='{files.name}' can't be loaded from {files.folder} ({one_line(error)}): check its files, or give "
            "another model"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        weights = _weight_bytes(files, dtype, trust_remote_code)
        raise no_room_for(f"model='{files.name}' in {dtype}", weights, device, free=free) from error
    logger.info("loaded %s (%s) on %s in %s", files.name, type(model).__name__, device, dtype)
    return open_engine(model, kv_iter=kv_iter)


def _weight_bytes(files: ModelFiles, dtype: str, trust_remote_code: bool) -> int:
    """Bytes of the weights in a number format, computed without loading them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(**location(files), trust_remote_code=trust_remote_code)
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
