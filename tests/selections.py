"""Selections in a store, for tests: the newest one of a cut, and manifests without the other files."""

from pathlib import Path
from typing import Any

from nuggets.runs.selections import SelectionManifest, newest_selections, write_selection
from nuggets.store.store import Store, open_store


def selection_path(store: str | Path, run: str, cut: str) -> str:
    """The folder of the newest selection of a cut, relative to the store."""
    (path,) = [item.folder for item in newest_selections(open_store(str(store)), run) if item.name == cut]
    return path


def store_manifest(store: Store, run: str, **fields: Any) -> SelectionManifest:
    """Store and return the manifest of a selection that keeps 2 of 32 candidates; `fields` replace its values."""
    values: dict[str, Any] = {
        "name": "top-k-2",
        "cut": {"top_k": 2},
        "cut_description": "best 2",
        "created_at": "2026-01-01T10:00:00",
        "candidates": 32,
        "kept": 2,
        "golden_score_quantiles": {"0.5": (0.25, 0.5)},
        "candidates_by_cells": {"8": 32},
        "scores_digest": "3f2a",
        "digests": {},
        "run": {"name": run},
    }
    manifest = SelectionManifest(**values | fields)
    write_selection(store, manifest)
    return manifest
