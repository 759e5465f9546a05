"""The one model, encoder or language model, that this process has loaded; the next one is loaded after its release.

A process serves a run's encoder, then its language model, then other runs. Two models at a time would take the memory
of both, and the new model's budgets, measured from what is free then, would be too small for as long as it is used.
"""

import gc
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

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


def _free_memory() -> None:
    import torch

    gc.collect()  # modules and their hooks refer to each other
    torch.cuda.empty_cache()
