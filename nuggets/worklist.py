"""What is still to be scored: the cells that a run needs and the store does not hold, shard by shard."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuggets.store import Store


@dataclass(frozen=True, slots=True)
class Batch:
    """Candidates that lack the same anchors, `anchors` being positions in the run's anchor set."""

    candidate_ids: tuple[str, ...]
    anchors: tuple[int, ...]

    @property
    def cells(self) -> int:
        """How many cells it takes."""
        return len(self.candidate_ids) * len(self.anchors)


def missing_batches(candidate_ids: Sequence[str], cells: NDArray[np.float32]) -> list[Batch]:
    """The cells `(candidates, anchors)` that are NaN, grouped by anchors so that a group shares its forward passes."""
    batches: dict[tuple[int, ...], list[str]] = {}
    for candidate, row in zip(candidate_ids, np.isnan(cells), strict=True):
        if row.any():
            batches.setdefault(tuple(np.flatnonzero(row).tolist()), []).append(candidate)
    return [Batch(tuple(candidates), anchors) for anchors, candidates in batches.items()]


def write_worklist(store: Store, path: str, batches: Sequence[Batch]) -> None:
    """Store what one task has to score."""
    rows = [{"candidate_ids": item.candidate_ids, "anchors": item.anchors} for item in batches]
    store.write(path, json.dumps(rows).encode())


def read_worklist(store: Store, path: str) -> list[Batch]:
    """What one task has to score."""
    return [Batch(tuple(row["candidate_ids"]), tuple(row["anchors"])) for row in store.read_json(path)]
