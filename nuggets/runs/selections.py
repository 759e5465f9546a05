"""The published selections of a run: where they are, and which one of a cut is the newest.

```
runs/<name>/selections/<cut>/<scores>/     e.g. runs/first/selections/top-k-50/3f2a9c1b77d0/
```

`<scores>` is the digest of the score table that the selection was made from. New scores make a new folder, so that a
published folder never changes and a reader of several of its files never sees a mixture.
"""

from typing import Any

from nuggets.runs.manifest import run_folder
from nuggets.store.store import Store

_DIGITS = 12  # of the digest, in the folder's name


def selection_folder(name: str, cut_name: str, scores_digest: str) -> str:
    """The folder of the selection that a cut makes of some scores."""
    return f"{run_folder(name)}/selections/{cut_name}/{scores_digest[:_DIGITS]}"


def list_selections(store: Store, name: str) -> list[dict[str, Any]]:
    """The manifests of a run's selections, oldest first, each with the `folder` that it is in."""
    paths = [path for path in store.list(f"{run_folder(name)}/selections") if path.endswith("/manifest.json")]
    selections = [{**store.read_json(path), "folder": path.rpartition("/")[0]} for path in paths]
    return sorted(selections, key=lambda item: (item["created_at"], item["name"]))


def newest_selections(store: Store, name: str) -> list[dict[str, Any]]:
    """The newest selection of each cut of a run, oldest first."""
    by_cut: dict[str, dict[str, Any]] = {}
    for item in list_selections(store, name):
        by_cut.pop(item["name"], None)
        by_cut[item["name"]] = item
    return list(by_cut.values())
