"""All cells of a pool, shard by shard. Only the blocks that overlap the current shard are in memory."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from nuggets.cells.blocks import CellBlock, read_block
from nuggets.cells.folders import folder_range, list_blocks, read_folder, take_cells
from nuggets.errors import StoreError
from nuggets.pools.shards import read_ids
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class ShardCells:
    """A shard's cells `(candidates, anchors)` in nats, NaN for a missing cell, with its example ids and rows."""

    index: int
    candidate_ids: Any
    candidate_rows: NDArray[np.int64]
    values: NDArray[np.float32]
    conflicts: int = 0  # cells for which blocks hold different values


@dataclass(frozen=True, slots=True)
class ShardIds:
    """A shard's example ids (a pyarrow array of strings) and rows, in its order, and the first and last id."""

    index: int
    ids: Any
    rows: NDArray[np.int64]
    first: str
    last: str


def read_shard_ids(store: Store, shards: Sequence[str]) -> Iterator[ShardIds]:
    """The ids of a pool's shards. Raises StoreError for a pool whose shards are not in the order of ids."""
    before = ""
    for index, shard in enumerate(shards):
        ids, rows = read_ids(store, shard)
        bounds = pc.min_max(ids)
        first, last = bounds["min"].as_py(), bounds["max"].as_py()
        if first <= before:
            raise StoreError(
                f"{store.uri(shard)} is not in the order of example ids: delete {store.uri(_folder(shard))} and run "
                "nuggets curate again; no cell is computed again"
            )
        before = last
        yield ShardIds(index, ids, rows, first, last)


def sweep_cells(store: Store, key: str, shards: Sequence[str], anchor_ids: Sequence[str]) -> Iterator[ShardCells]:
    """The cells of a pool's shards under a scoring key, in the order of the shards.

    Raises StoreError for a pool whose shards are not in the order of ids.
    """
    unread = deque(sorted((*folder_range(path), path) for path in list_blocks(store, f"cells/{key}")))
    loaded: list[tuple[str, list[CellBlock]]] = []  # each with the last leading digits of its folder
    for shard in read_shard_ids(store, shards):
        loaded = [(last, blocks) for last, blocks in loaded if _reaches(last, shard.first)]
        while unread and unread[0][0] <= shard.last[: len(unread[0][0])]:
            _, last, path = unread.popleft()
            if not _reaches(last, shard.first):
                continue
            try:
                block = read_block(store, path, anchor_ids)
                blocks = [] if block is None else [block]
            except FileNotFoundError:  # joined with others since it was listed: the new block is in the same folder
                blocks = read_folder(store, _folder(path), anchor_ids)
                while unread and _folder(unread[0][2]) == _folder(path):
                    unread.popleft()
            loaded.append((last, blocks))
        values = np.full((len(shard.ids), len(anchor_ids)), np.nan, dtype=np.float32)
        conflicts: set[tuple[int, int]] = set()
        for _, blocks in loaded:
            for block in blocks:
                conflicts.update(map(tuple, take_cells(block, shard.ids, anchor_ids, values).tolist()))
        yield ShardCells(shard.index, shard.ids, shard.rows, values, len(conflicts))


def _reaches(last: str, first: str) -> bool:
    return last >= first[: len(last)]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
