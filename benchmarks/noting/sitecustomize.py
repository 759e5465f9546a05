"""In every Python that starts with this folder on its path, each computed row is noted in the file NOTED_CELLS.

A line is JSON: process, candidate, anchors, and the seconds that the engine took since its row before. It is written
before the row is passed on to be stored. NOTED_COMMIT is the number of candidates per block, NOTED_PAUSE the seconds
that each row takes longer.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

MODULE = "nuggets.steps.score_cells"


class _Noting(importlib.abc.MetaPathFinder):
    """Finds that module as usual, and changes it when it has been loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != MODULE:
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_change(module: Any) -> None:
            load(module)
            _note_rows(module)

        spec.loader.exec_module = load_and_change
        return spec


def _note_rows(module: Any) -> None:
    handle = os.open(os.environ["NOTED_CELLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    writer = sys.modules["nuggets.steps.block_writer"]
    writer.BLOCK_CANDIDATES = int(os.environ.get("NOTED_COMMIT", writer.BLOCK_CANDIDATES))  # type: ignore[attr-defined]
    pause = float(os.environ.get("NOTED_PAUSE", 0))
    score = module._score

    def noted(scorer: Any, missing: Any, anchors: Any) -> None:
        model = scorer.model

        class Noted:
            def log_prob_sums(self, prefixes: Any, continuations: Any, *, wanted: Any) -> Iterator[Any]:
                before = time.monotonic()
                rows = model.log_prob_sums(prefixes, continuations, wanted=wanted)
                for (_, candidate, columns), row in zip(missing, rows, strict=True):
                    time.sleep(pause)
                    seconds = time.monotonic() - before
                    line = [os.getpid(), candidate, [anchors[column].id for column in columns], round(seconds, 6)]
                    os.write(handle, (json.dumps(line) + "\n").encode())
                    yield row
                    before = time.monotonic()

        score(replace(scorer, model=Noted()), missing, anchors)

    module._score = noted


if "NOTED_CELLS" in os.environ:
    sys.meta_path.insert(0, _Noting())
