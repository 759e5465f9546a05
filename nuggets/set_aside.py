"""Candidates for which a model gives no number: noted in the store, so that nobody computes them again in vain.

```
set-aside/<scoring key>/<digest>.json     example ids; a candidate that stands here is judged on nothing, and never kept
```
"""

import json
from collections.abc import Iterable

from nuggets.addresses import digest
from nuggets.store import Store


def note_set_aside(store: Store, scoring_key: str, candidate_ids: Iterable[str]) -> None:
    """Note some candidates; those that are noted already stay."""
    ids = sorted(set(candidate_ids))
    store.write(f"{_folder(scoring_key)}/{digest(ids)}.json", json.dumps(ids).encode())


def read_set_aside(store: Store, scoring_key: str) -> frozenset[str]:
    """All candidates that were ever noted under a scoring key, of whatever pool."""
    return frozenset(key for path in store.list(_folder(scoring_key), suffix=".json") for key in store.read_json(path))


def _folder(scoring_key: str) -> str:
    return f"set-aside/{scoring_key}"
