"""Unscorable candidates: the model returned no finite number for some of their cells. Notes keep them from a retry.

```
unscorable/<scoring key>/<digest>.json     example id of a candidate -> ids of the anchors without a finite number
```

A run that has one of these anchors gives the candidate no golden score and never keeps it. For a run with other anchors
it is a candidate like any other.
"""

import json
from collections.abc import Collection, Mapping

from nuggets.store.addresses import digest
from nuggets.store.store import Store


def record_unscorable(store: Store, scoring_key: str, anchors_of: Mapping[str, Collection[str]]) -> None:
    """Note some candidates, each with the anchors that gave no finite number. Earlier notes stay."""
    note = {candidate: sorted(set(anchors)) for candidate, anchors in sorted(anchors_of.items())}
    store.write(f"{_folder(scoring_key)}/{digest(note)}.json", json.dumps(note).encode())


def read_unscorable(store: Store, scoring_key: str, anchor_ids: Collection[str]) -> frozenset[str]:
    """The candidates of any pool that are noted under a scoring key with one of these anchors."""
    asked = set(anchor_ids)
    candidates: set[str] = set()
    for path in store.list(_folder(scoring_key), suffix=".json"):
        note = store.read_json(path)
        candidates.update(candidate for candidate, anchors in note.items() if not asked.isdisjoint(anchors))
    return frozenset(candidates)


def _folder(scoring_key: str) -> str:
    return f"unscorable/{scoring_key}"
