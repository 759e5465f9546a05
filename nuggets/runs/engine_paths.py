"""How a run's cells were computed: the paths of the scoring engine on its devices, packed or plain.

    runs/<name>/engine_paths/<digest>.json

The path changes no address and no cell beyond rounding, but a plain path is slow: manifest and report show it. Each
scoring process writes a file of its own, because several processes and machines may score one run.
"""

import json

from nuggets.store.addresses import digest
from nuggets.store.store import Store


def record_engine_path(store: Store, run: str, path: str) -> None:
    """Add an engine's path to those of a run."""
    store.write_if_absent(f"{_folder(run)}/{digest([path])}.json", json.dumps({"path": path}).encode())


def read_engine_paths(store: Store, run: str) -> list[str]:
    """The paths with which a run's cells were computed, in alphabetical order."""
    return sorted(store.read_json(file)["path"] for file in store.list(_folder(run), suffix=".json"))


def _folder(run: str) -> str:
    return f"runs/{run}/engine_paths"
