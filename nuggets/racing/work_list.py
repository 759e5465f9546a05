"""What one scoring task has to compute: of each candidate the anchors that it lacks and that the round asks for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuggets.store.addresses import digest
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A candidate and the anchors it is to be measured on, as positions in the run's anchor set."""

    candidate_id: str
    anchors: tuple[int, ...]


Worklist = Mapping[str, Sequence[WorkItem]]  # path of a pool's shard -> items, in the order of the shard


def work_items(candidate_ids: Sequence[str], cells: NDArray[np.bool_]) -> list[WorkItem]:
    """The items of the candidates that have a True in `cells` `(candidates, anchors)`."""
    return [
        WorkItem(candidate_ids[row], tuple(np.flatnonzero(cells[row]).tolist()))
        for row in np.flatnonzero(cells.any(axis=1)).tolist()
    ]


def count_cells(worklist: Worklist) -> int:
    """How many cells a work list asks for."""
    return sum(len(item.anchors) for items in worklist.values() for item in items)


def write_worklist(store: Store, folder: str, worklist: Worklist) -> str:
    """Store a work list; returns its path. Its content names it: two runs that plan at once replace nothing."""
    rows = {shard: [[item.candidate_id, item.anchors] for item in items] for shard, items in worklist.items()}
    path = f"{folder}/{digest(rows)}.json"
    store.write(path, json.dumps(rows).encode())
    return path


def read_worklist(store: Store, path: str) -> dict[str, list[WorkItem]]:
    """A stored work list."""
    rows = store.read_json(path)
    return {shard: [WorkItem(key, tuple(anchors)) for key, anchors in items] for shard, items in rows.items()}
