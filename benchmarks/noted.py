"""Reading what `noting/sitecustomize.py` has noted, and the environment in which it does."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).with_name("noting")


@dataclass(frozen=True, slots=True)
class NotedRow:
    """A computed row: in which process, whose cells, and how many seconds of the engine it took."""

    process: int
    candidate: str
    anchors: tuple[str, ...]
    seconds: float


def noting_environment(file: Path, *, commit: int | None = None, pause: float | None = None) -> dict[str, str]:
    """The environment of this process, with which processes note their rows in a file.

    `commit`: candidates per block. `pause`: seconds that each row takes longer.
    """
    path = os.pathsep.join([str(_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    block = {} if commit is None else {"NOTED_COMMIT": str(commit)}
    slow = {} if pause is None else {"NOTED_PAUSE": str(pause)}
    return os.environ | {"PYTHONPATH": path, "NOTED_CELLS": str(file), **block, **slow}


def noted_rows(file: Path) -> list[NotedRow]:
    """All rows that were noted so far; the last line of a killed process may be cut off, and is left out."""
    lines = file.read_text().splitlines() if file.exists() else []
    whole = [json.loads(line) for line in lines if line.startswith("[") and line.endswith("]")]
    return [NotedRow(process, candidate, tuple(anchors), seconds) for process, candidate, anchors, seconds in whole]
