"""All cells of a pool as a table that is kept in memory and read once: a refresh reads only new blocks.

Blocks are immutable and named by their content, so a path that was read never has to be read again. A block that joins
others has a new name; reading it changes no value. A table larger than its memory limit keeps nothing and is read shard
by shard each time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nuggets.cells.blocks import read_block
from nuggets.cells.folders import list_blocks, listed_but_missing, take_cells
from nuggets.cells.sweep import ShardCells, ShardIds, read_shard_ids, sweep_cells
from nuggets.pools.shards import Pool
from nuggets.store.store import Store

_CANDIDATE_BYTES = 48  # id, its offset and its row


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard's cells `(candidates, anchors)` and the positions of those for which blocks hold different values."""

    ids: ShardIds
    values: NDArray[np.float32]
    conflicts: set[tuple[int, int]] = field(default_factory=set)


class CellTable:
    """The cells of a pool for one scoring key and some anchors.

    `memory`: bytes that the table may take; 0 keeps nothing.
    """

    def __init__(self, store: Store, key: str, pool: Pool, anchor_ids: Sequence[str], *, memory: int = 0) -> None:
        self._store = store
        self._key = key
        self._pool = pool
        self._anchor_ids = anchor_ids
        self._is_kept = pool.examples * (4 * len(anchor_ids) + _CANDIDATE_BYTES) <= memory
        self._shards: list[_Shard] = []
        self._read: set[str] = set()  # paths of blocks whose cells are in the table

    def refresh(self) -> None:
        """Read the blocks that were stored since the last call; without memory, do nothing.

        Raises StoreError for a block that two listings show and that cannot be opened.
        """
        if not self._is_kept:
            return
        if not self._shards:
            self._clear()
        missing: set[str] = set()
        while True:
            path = ""
            try:
                for path in self._new_blocks():
                    self._add(path)
            except (
                FileNotFoundError
            ) as error:  # joined with others since it was listed: a new listing shows their block
                if path in missing:
                    raise listed_but_missing(self._store, path) from error
                missing.add(path)
            else:
                return

    def shards(self) -> Iterator[ShardCells]:
        """The cells of each shard, in the order of the pool; as of the last refresh if the table is kept."""
        if not self._is_kept:
            yield from sweep_cells(self._store, self._key, self._pool.shards, self._anchor_ids)
            return
        for shard in self._shards:
            values = shard.values.view()
            values.flags.writeable = False
            yield ShardCells(shard.ids.index, shard.ids.ids, shard.ids.rows, values, len(shard.conflicts))

    def _clear(self) -> None:
        self._read.clear()
        self._shards = [
            _Shard(shard, np.full((len(shard.ids), len(self._anchor_ids)), np.nan, dtype=np.float32))
            for shard in read_shard_ids(self._store, self._pool.shards)
        ]

    def _new_blocks(self) -> list[str]:
        listed = list_blocks(self._store, f"cells/{self._key}")
        if self._were_lost(self._read.difference(listed), listed):
            self._clear()
        return [path for path in listed if path not in self._read]

    def _were_lost(self, removed: set[str], listed: Sequence[str]) -> bool:
        """Whether cells of blocks that are gone may be gone from the store, too: they have to be computed again.

        A block is removed when a block in its folder holds its cells, or because its file is damaged.
        """
        if not removed:
            return False
        damaged = {path.removeprefix("damaged/") for path in list_blocks(self._store, f"damaged/cells/{self._key}")}
        return not removed.isdisjoint(damaged) or not set(map(_folder, removed)) <= set(map(_folder, listed))

    def _add(self, path: str) -> None:
        block = read_block(self._store, path, self._anchor_ids)
        if block is None:  # damaged. It does not count as read: an undamaged block may be stored at the same path later
            return
        ends = block.candidate_ids[:1], block.candidate_ids[-1:]  # empty if it has none of the anchors
        for first, last in zip(*ends, strict=True):
            start = bisect_left(self._shards, first, key=lambda shard: shard.ids.last)
            stop = bisect_right(self._shards, last, key=lambda shard: shard.ids.first)
            for shard in self._shards[start:stop]:
                conflicts = take_cells(block, shard.ids.ids, self._anchor_ids, shard.values)
                shard.conflicts.update((row, column) for row, column in conflicts.tolist())
        self._read.add(path)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
