"""The one model that this process has loaded, encoder or language model: the next one comes when it has gone.

Processes live on from a run's encoder to its language model and from run to run. A new model beside the old one would
take the memory of both, and what is measured as free for its work would be too little for as long as it is used.
"""

import gc
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

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
        model = load()
        _loaded = (key, model)
        return model


def _give_memory_back() -> None:
    import torch

    gc.collect()  # modules and their hooks refer to each other
    torch.cuda.empty_cache()
