"""Unscorable candidates: the model returned no finite number for some of their cells. Notes keep them from a retry.

```
unscorable/<scoring key>/<digest>.json     an UnscorableNote
```

A run that has one of these anchors gives the candidate no golden score and never keeps it. For a run with other anchors
it is a candidate like any other.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from nuggets.store.addresses import digest
from nuggets.store.records import read_record, write_record
from nuggets.store.store import Store

NO_FINITE_NUMBER = "no_finite_number"  # the reason; others are the faults of prompts (prompt_notes.py)


@dataclass(frozen=True, slots=True)
class UnscorableNote:
    """Example ids of candidates, each with the ids of the anchors for which the model returned no finite number."""

    FORMAT: ClassVar[int] = 1
    anchors_of: dict[str, tuple[str, ...]]


def record_unscorable(store: Store, scoring_key: str, anchors_of: Mapping[str, Collection[str]]) -> None:
    """Note some candidates, each with the anchors that gave no finite number. Earlier notes stay."""
    note = {candidate: tuple(sorted(set(anchors))) for candidate, anchors in anchors_of.items()}
    write_record(store, f"{_folder(scoring_key)}/{digest(note)}.json", UnscorableNote(note))


def read_unscorable(store: Store, scoring_key: str, anchor_ids: Collection[str]) -> frozenset[str]:
    """The candidates of any pool that are noted under a scoring key with one of these anchors."""
    asked = set(anchor_ids)
    candidates: set[str] = set()
    for path in store.list(_folder(scoring_key), suffix=".json"):
        note = read_record(store, path, UnscorableNote)
        candidates.update(candidate for candidate, anchors in note.anchors_of.items() if not asked.isdisjoint(anchors))
    return frozenset(candidates)


def _folder(scoring_key: str) -> str:
    return f"unscorable/{scoring_key}"
