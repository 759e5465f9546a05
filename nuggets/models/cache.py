"""The one model that this process has loaded, encoder or language model: the next one comes when it has gone.

Processes live on from a run's encoder to its language model and from run to run. A new model beside the old one would
take the memory of both, and what is measured as free for its work would be too little for as long as it is used.
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

_loading = Lock()  # two threads would load two models, each as if it were alone
_loaded: tuple[Hashable, Any] | None = None


def loaded_model(key: Hashable, load: Callable[[], Any]) -> Any:
    """What `load` returns, kept until another key is asked for; what was kept before is let go first."""
    global _loaded
    with _loading:
        if _loaded is not None and _loaded[0] == key:
            return _loaded[1]
        if _loaded is not None:
            _loaded = None
            _give_memory_back()
        with quiet_phase("loading a model"):
            model = load()
        _loaded = (key, model)
        return model


@contextmanager
def reading_weights(model: str) -> Iterator[None]:
    """Weights that can't be read are an error that names the model; what transformers reports of it is left out.

    It reports what the weights do and don't cover before anything can be said about the model: shown afterwards, and
    not at all where an error says what is wrong.
    """
    from safetensors import SafetensorError

    held_back: list[logging.LogRecord] = []

    def hold_back(record: logging.LogRecord) -> bool:
        held_back.append(record)
        return False

    handlers = [*logging.getLogger("transformers").handlers[:1]]  # the library's own; others are asked for by somebody
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


def _give_memory_back() -> None:
    import torch

    gc.collect()  # modules and their hooks refer to each other
    torch.cuda.empty_cache()
