"""The newest selection of a cut, for tests that read a store."""

from pathlib import Path

from nuggets.runs.selections import newest_selections
from nuggets.store.store import open_store


def selection_path(store: str | Path, run: str, cut: str) -> str:
    """The folder of the newest selection of a cut, relative to the store."""
    (path,) = [item["folder"] for item in newest_selections(open_store(str(store)), run) if item["name"] == cut]
    return path
