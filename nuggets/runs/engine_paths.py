"""How a run's cells were computed: the paths of the scoring engine on its devices, packed or plain.

    runs/<name>/engine_paths/<digest>.json     an EnginePath

The path changes no address and no cell beyond rounding, but a plain path is slow: manifest and report show it. Each
scoring process writes a separate file, because several processes and machines may score one run.
"""

from dataclasses import dataclass
from typing import ClassVar

from nuggets.store.addresses import digest
from nuggets.store.records import read_record, record_bytes
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class EnginePath:
    """A path of the scoring engine, as manifest and report show it."""

    FORMAT: ClassVar[int] = 1
    path: str


def record_engine_path(store: Store, run: str, path: str) -> None:
    """Add an engine's path to those of a run."""
    store.write_if_absent(f"{_folder(run)}/{digest([path])}.json", record_bytes(EnginePath(path)))


def read_engine_paths(store: Store, run: str) -> list[str]:
    """The paths with which a run's cells were computed, in alphabetical order."""
    return sorted(read_record(store, file, EnginePath).path for file in store.list(_folder(run), suffix=".json"))


def _folder(run: str) -> str:
    return f"runs/{run}/engine_paths"
