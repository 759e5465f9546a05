"""Candidates for which a model gives no number: noted in the store, so that nobody computes them again in vain.

```
set-aside/<scoring key>/<digest>.json     example id of a candidate -> ids of the anchors behind it that have no number
```

A run that has one of these anchors judges the candidate on nothing, and never keeps it; to a run of other anchors it is
a candidate like any other. Notes of earlier versions are lists of candidates, and hold for all anchors.
"""

import json
from collections.abc import Collection, Mapping

from nuggets.store.addresses import digest
from nuggets.store.store import Store


def record_unscorable(store: Store, scoring_key: str, anchors_of: Mapping[str, Collection[str]]) -> None:
    """Note some candidates, each with the anchors that gave no number; those that are noted already stay."""
    note = {candidate: sorted(set(anchors)) for candidate, anchors in sorted(anchors_of.items())}
    store.write(f"{_folder(scoring_key)}/{digest(note)}.json", json.dumps(note).encode())


def read_unscorable(store: Store, scoring_key: str, anchor_ids: Collection[str]) -> frozenset[str]:
    """The candidates, of whatever pool, that were ever noted under a scoring key with one of these anchors."""
    asked = set(anchor_ids)
    found: set[str] = set()
    for path in store.list(_folder(scoring_key), suffix=".json"):
        note = store.read_json(path)
        if isinstance(note, list):
            found.update(note)
        else:
            found.update(candidate for candidate, anchors in note.items() if not asked.isdisjoint(anchors))
    return frozenset(found)


def _folder(scoring_key: str) -> str:
    return f"set-aside/{scoring_key}"
