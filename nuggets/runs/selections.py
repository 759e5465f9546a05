"""The published selections of a run: their manifests, their folders, and the newest selection of each cut.

```
runs/<name>/selections/<cut>/<scores>/     e.g. runs/first/selections/top-k-50/3f2a9c1b77d0/
```

`<scores>` is the digest of the score table that the selection was made from. New scores make a new folder, so that a
published folder never changes and a reader of several of its files never sees a mixture.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from nuggets.runs.manifest import run_folder
from nuggets.store.records import read_record, write_record
from nuggets.store.store import Store

_DIGITS = 12  # of the digest, in the folder's name


@dataclass(frozen=True, slots=True)
class SelectionManifest:
    """The manifest of a published selection."""

    FORMAT: ClassVar[int] = 1
    name: str  # of the cut
    cut: dict[str, int | float]  # as options
    cut_description: str
    created_at: str  # ISO 8601, UTC
    candidates: int
    kept: int
    golden_score_quantiles: dict[str, tuple[float, float]]  # each as its bounds
    candidates_by_cells: dict[str, int]
    scores_digest: str
    digests: dict[str, str]  # SHA-256 of each file
    run: dict[str, Any]  # the run's manifest at that time, without its state

    @property
    def folder(self) -> str:
        """The selection's folder in the store."""
        return selection_folder(self.run["name"], self.name, self.scores_digest)


def selection_folder(name: str, cut_name: str, scores_digest: str) -> str:
    """The folder of the selection that a cut makes from a score table of a run."""
    return f"{run_folder(name)}/selections/{cut_name}/{scores_digest[:_DIGITS]}"


def write_selection(store: Store, manifest: SelectionManifest) -> None:
    """Store a selection's manifest in its folder, after the other files: it marks the selection as complete."""
    write_record(store, f"{manifest.folder}/manifest.json", manifest)


def list_selections(store: Store, name: str) -> list[SelectionManifest]:
    """The manifests of a run's selections, oldest first."""
    paths = [path for path in store.list(f"{run_folder(name)}/selections") if path.endswith("/manifest.json")]
    selections = [read_record(store, path, SelectionManifest) for path in paths]
    return sorted(selections, key=lambda selection: (selection.created_at, selection.name))


def newest_selections(store: Store, name: str) -> list[SelectionManifest]:
    """The newest selection of each cut of a run, oldest first."""
    by_cut: dict[str, SelectionManifest] = {}
    for selection in list_selections(store, name):
        by_cut.pop(selection.name, None)
        by_cut[selection.name] = selection
    return list(by_cut.values())
