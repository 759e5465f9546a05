"""In every Python that starts with this folder on its path: each computed row is noted in the file NOTED_CELLS.

A line is process, candidate and number of cells, written before the row is handed to whoever stores it.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator
from typing import Any

MODULE = "nuggets.shard_scoring"


class Noting(importlib.abc.MetaPathFinder):
    """Finds the one module as usual, and changes it when it has been loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def changed(module: Any) -> None:
            load(module)
            note(module)

        spec.loader.exec_module = changed
        return spec


def note(module: Any) -> None:
    """Have the module note what it computes, and commit often, so that little is in flight."""
    module.COMMIT_CANDIDATES = int(os.environ["NOTED_COMMIT"])
    handle = os.open(os.environ["NOTED_CELLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    open_model = module.open_model

    class Noted:
        def __init__(self, model: Any) -> None:
            self.model = model

        def log_prob_sums(self, prefixes: Any, continuations: Any, *, wanted: Any) -> Iterator[Any]:
            columns = list(wanted)
            rows = self.model.log_prob_sums(prefixes, continuations, wanted=columns)
            for number, (asked, row) in enumerate(zip(columns, rows, strict=True)):
                os.write(handle, f"{os.getpid()} {number} {len(asked)}\n".encode())
                yield row

    module.open_model = lambda setup: Noted(open_model(setup))


if "NOTED_CELLS" in os.environ:
    sys.meta_path.insert(0, Noting())
