"""The cells of a run with what they are compared with: the one way in which rounds, scores and exports read them.

```
with kept_cells(memory):                         once per flow: the table stays in memory where it fits
    with run_cells(prepared, pool, anchors):     each round and the scores: reads only the blocks that are new
        ...
```
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nuggets.anchors.anchor_set import Anchor, read_anchors
from nuggets.anchors.baseline import Baseline, read_baseline
from nuggets.cells.prompt_notes import pool_notes_path, read_notes
from nuggets.cells.sweep import ShardCells
from nuggets.cells.table import CellTable
from nuggets.cells.unscorable import NO_FINITE_NUMBER, read_unscorable
from nuggets.pools.shards import Pool
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.golden import eligible_cells
from nuggets.scores.wins import cell_gains
from nuggets.store.external_sort import MEMORY
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class RunShard:
    """A shard's cells and gains `(candidates, anchors)` in nats, NaN where not computed, and the cells that count."""

    cells: ShardCells
    gains: NDArray[np.float32]
    eligible: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RunCells:
    """A run's cells, anchors and baseline. Profile `released` counts the cell of a candidate that is the anchor, too.

    `unscorable`: candidates, some of them of other pools, that have no score, each with the reason. They have no
    eligible anchors.
    """

    anchors: Sequence[Anchor]
    baseline: Baseline
    table: CellTable
    keep_own_cell: bool = True
    unscorable: Mapping[str, str] = field(default_factory=dict)

    def shards(self) -> Iterator[RunShard]:
        """The shards of the pool, in order, from the first again at every call."""
        anchor_ids, unscorable_ids = [anchor.id for anchor in self.anchors], sorted(self.unscorable)
        for cells in self.table.shards():
            first, last = cells.candidate_ids[0].as_py(), cells.candidate_ids[-1].as_py()
            unscorable = unscorable_ids[bisect_left(unscorable_ids, first) : bisect_right(unscorable_ids, last)]
            eligible = eligible_cells(
                cells.candidate_ids, anchor_ids, keep_own_cell=self.keep_own_cell, unscorable=unscorable
            )
            yield RunShard(cells, cell_gains(cells.values, self.baseline.zero_shot), eligible)


def read_run_cells(store: Store, key: str, pool: Pool, anchors_path: str, *, memory: int = 0) -> RunCells:
    """The cells of a pool under a scoring key and the anchors and baseline that belong to them."""
    anchors = read_anchors(store, anchors_path)
    anchor_ids = [anchor.id for anchor in anchors]
    table = CellTable(store, key, pool, anchor_ids, memory=memory)
    return RunCells(anchors, read_baseline(store, key, anchor_ids), table)


@dataclass(slots=True)
class _Kept:
    """The table that the rounds of one flow share; `lock` is held while one of them reads it."""

    memory: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    address: tuple[Store, str, str, str] | None = None
    cells: RunCells | None = None


_kept: ContextVar[_Kept | None] = ContextVar("kept_cells", default=None)


@contextmanager
def kept_cells(memory: int = MEMORY) -> Iterator[None]:
    """Inside, `run_cells` keeps a run's table of cells from call to call, if it fits `memory` bytes."""
    token = _kept.set(_Kept(memory))
    try:
        yield
    finally:
        _kept.reset(token)


@contextmanager
def run_cells(prepared: PreparedRun, pool: Pool, anchors_path: str) -> Iterator[RunCells]:
    """A run's cells as they are stored now. Inside `kept_cells`, no block is read that an earlier call has read."""
    kept = _kept.get() or _Kept(memory=0)
    key = prepared.setup.key
    address = (prepared.store, key, pool.id, anchors_path)
    with kept.lock:
        if kept.cells is None or kept.address != address:
            kept.address, kept.cells = None, None  # frees the old table before the new one takes its memory
            kept.cells = replace(
                read_run_cells(prepared.store, key, pool, anchors_path, memory=kept.memory),
                unscorable=read_notes(prepared.store, pool_notes_path(key, pool.id)).faults,
            )
            kept.address = address
        kept.cells.table.refresh()
        anchor_ids = [anchor.id for anchor in kept.cells.anchors]
        yield replace(
            kept.cells,
            keep_own_cell=prepared.setup.profile == "released",
            unscorable={**_without_number(prepared, anchor_ids), **kept.cells.unscorable},
        )


def _without_number(prepared: PreparedRun, anchor_ids: Sequence[str]) -> dict[str, str]:
    """The candidates for which the model has returned no finite number, if the run may leave them out."""
    if not prepared.max_bad_candidates:
        return {}
    return dict.fromkeys(read_unscorable(prepared.store, prepared.setup.key, anchor_ids), NO_FINITE_NUMBER)
