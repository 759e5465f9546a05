"""The one model, encoder or language model, that this process has loaded; the next one is loaded after its release.

A process serves a run's encoder, then its language model, then other runs. Two models at a time would take the memory
of both, and the new model's budgets, measured from what is free then, would be too small for as long as it is used.
"""

import gc
import logging
import struct
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from nuggets.errors import InputError
from nuggets.progress import quiet_phase

_loading = Lock()  # two threads would each load a model
_loaded: tuple[Hashable, Any] | None = None


def loaded_model(key: Hashable, load: Callable[[], Any]) -> Any:
    """What `load` returns, kept until another key is requested; the model that was kept before is released first."""
    global _loaded
    with _loading:
        if _loaded is not None and _loaded[0] == key:
            return _loaded[1]
        if _loaded is not None:
            _loaded = None
            _free_memory()
        with quiet_phase("loading a model"):
            model = load()
        _loaded = (key, model)
        return model


@contextmanager
def reading_weights(model: str) -> Iterator[None]:
    """Turn unreadable weights into an InputError that names the model, and hold back transformers' load report.

    The report lists missing and unexpected weights. It is shown after loading, and not at all if loading fails with an
    error that names the cause.
    """
    from safetensors import SafetensorError

    held_back: list[logging.LogRecord] = []

    def hold_back(record: logging.LogRecord) -> bool:
        held_back.append(record)
        return False

    handlers = [
        *logging.getLogger("transformers").handlers[:1]
    ]  # the library's own handler; others were added on purpose
    for handler in handlers:
        handler.addFilter(hold_back)
    try:
        yield
    except (SafetensorError, struct.error) as error:
        raise unreadable_weights(model, error) from error
    finally:
        for handler in handlers:
            handler.removeFilter(hold_back)
    for handler in handlers:
        for record in held_back:
            handler.handle(record)


def unreadable_weights(model: str, error: Exception) -> InputError:
    """The error for weights that are not what their format prescribes."""
    return InputError(f"{model}: its weights can't be read ({error}): copy it again")


def _free_memory() -> None:
    import torch

    gc.collect()  # modules and their hooks refer to each other
    torch.cuda.empty_cache()
