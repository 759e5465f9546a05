"""A GGUF file: whether it is whole, and for how many tokens it has embeddings. It is parsed once per process."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nuggets.errors import InputError, UsageError
from nuggets.models.weight_files import unreadable_weights
from nuggets.store.user_address import with_full_path

_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_EMBEDDING = "token_embd.weight"


def check_is_gguf(reference: str, path: Path) -> None:
    """Raise UsageError if there is no GGUF file at the path, or only a part of one."""
    if not path.is_file():
        raise UsageError(f"model={with_full_path(reference)}: file not found")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UsageError(f"model='{reference}' is not a GGUF file: its first bytes are not 'GGUF'")
    if (part := _PART.search(path.name)) and int(part[1]) > 1:
        raise UsageError(
            f"model='{reference}' is one of {int(part[1])} parts of a GGUF file: join them with "
            "'llama-gguf-split --merge', and give the result"
        )


def embedding_rows(model: str, path: Path) -> int:
    """For how many tokens the file has embeddings. `model` names it in messages.

    Raises InputError if the file is shorter than its header declares, or holds no language model.
    """
    try:
        reader = _reader(path)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise unreadable_weights(model, error) from error
    for tensor in reader.tensors:
        if tensor.name == _EMBEDDING:
            return int(tensor.shape[-1])
    raise InputError(
        f"{model} is a GGUF file of architecture {gguf_architecture(path)} without token embeddings ({_EMBEDDING}), "
        "such as an adapter or the vision part of a model: give the GGUF file of a whole language model"
    )


def gguf_architecture(path: Path) -> str:
    """The name of the architecture that a GGUF file has."""
    field = _reader(path).get_field("general.architecture")
    return str(field.contents()) if field else "unknown"


def parse_gguf_once() -> None:
    """Let transformers use the reader of this module.

    It parses the file for the configuration, for the tokenizer and for the weights. Each time takes seconds, because
    the vocabulary is part of the header.
    """
    import gguf

    gguf.GGUFReader = _reader  # type: ignore[assignment, misc]


def _reader(path: str | Path) -> Any:
    state = Path(path).stat()
    return _parsed(str(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _parsed(path: str, _size: int, _changed: int) -> Any:
    from gguf.gguf_reader import GGUFReader

    class PlainReader(GGUFReader):
        def _get(self, *arguments: Any, **options: Any) -> Any:
            # A slice of a memmap takes several times as long as one of an array over the same memory.
            self.data: Any = np.asarray(self.data)
            return super()._get(*arguments, **options)

    return PlainReader(path)
