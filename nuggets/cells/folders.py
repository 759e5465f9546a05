"""Folders of cell blocks: which candidates one covers, reading all of its blocks, joining them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nuggets.cells.blocks import _NAN, CellBlock, read_block, write_block
from nuggets.store.store import Store

_ID_DIGITS = 8  # of an id in a folder's name


def cells_folder(key: str, candidate_ids: Sequence[str]) -> str:
    """The folder of the blocks that a task writes for candidates between the least and the greatest of these ids."""
    return f"cells/{key}/{min(candidate_ids)[:_ID_DIGITS]}-{max(candidate_ids)[:_ID_DIGITS]}"


def folder_range(path: str) -> tuple[str, str]:
    """The leading digits between which the candidates of a block lie, from its path."""
    first, dash, last = path.split("/")[2].partition("-")
    return (first, last) if dash else ("", "g")  # an earlier version's folder: anything from the first to the last id


def list_blocks(store: Store, folder: str) -> list[str]:
    """Paths of the blocks below a folder."""
    return store.list(folder, suffix=".parquet")


def read_folder(store: Store, folder: str, anchor_ids: Sequence[str] | None = None) -> list[CellBlock]:
    """The whole blocks of a folder, also while others join some of them; with `anchor_ids` others may be left out."""
    while True:
        try:
            blocks = [read_block(store, path, anchor_ids) for path in list_blocks(store, folder)]
        except FileNotFoundError:  # joined since it was listed: the block that holds its cells is there now
            continue
        return [block for block in blocks if block is not None]


def read_cells(
    store: Store, folder: str, candidate_ids: Sequence[str], anchor_ids: Sequence[str]
) -> NDArray[np.float32]:
    """A folder's cells `(candidates, anchors)` in the order asked for, NaN where there is none."""
    values = np.full((len(candidate_ids), len(anchor_ids)), _NAN)
    ids = pa.array(candidate_ids, pa.string())
    for block in read_folder(store, folder, anchor_ids):
        take_cells(block, ids, anchor_ids, values)
    return values


def take_cells(
    block: CellBlock, candidate_ids: pa.Array, anchor_ids: Sequence[str], values: NDArray[np.float32]
) -> None:
    """Join the cells of a block, as it was read, into `values` `(candidates, anchors)`, which changes in place."""
    column_of = {anchor: column for column, anchor in enumerate(block.anchor_ids)}
    pairs = [(place, column_of[anchor]) for place, anchor in enumerate(anchor_ids) if anchor in column_of]
    if not pairs or not len(candidate_ids):
        return
    # A wide block is met by shard after shard, each of which needs a short stretch of it.
    bounds = pc.min_max(candidate_ids)
    start = bisect_left(block.candidate_ids, bounds["min"].as_py())
    stop = bisect_right(block.candidate_ids, bounds["max"].as_py())
    found = pc.index_in(candidate_ids, value_set=pa.array(block.candidate_ids[start:stop], pa.string()))
    targets = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    if not len(targets):
        return
    rows = found.drop_null().to_numpy() + start
    places, columns = (np.array(side) for side in zip(*pairs, strict=True))
    here = np.ix_(targets, places)
    values[here] = np.fmax(values[here], block.values[np.ix_(rows, columns)])


def compact(store: Store, folder: str) -> None:
    """Join all blocks of a folder into one, so that objects grow with shards and not with commits."""
    paths = list_blocks(store, folder)
    if len(paths) < 2:
        return
    try:
        blocks = {path: block for path in paths if (block := read_block(store, path)) is not None}
    except FileNotFoundError:  # another process is joining them
        return
    if not blocks:
        return
    whole = write_block(store, folder, _joined(list(blocks.values())))
    for path in blocks:
        if path != whole:
            store.remove(path)


def _joined(blocks: Sequence[CellBlock]) -> CellBlock:
    row_of = _places(block.candidate_ids for block in blocks)
    column_of = _places(block.anchor_ids for block in blocks)
    values = np.full((len(row_of), len(column_of)), _NAN)
    for block in blocks:
        here = np.ix_(
            [row_of[candidate] for candidate in block.candidate_ids], [column_of[anchor] for anchor in block.anchor_ids]
        )
        values[here] = np.fmax(values[here], block.values)
    return CellBlock(tuple(row_of), tuple(column_of), values)


def _places(ids: Iterable[Sequence[str]]) -> dict[str, int]:
    """All ids, each once, and where each stands among them."""
    return {key: place for place, key in enumerate(dict.fromkeys(chain.from_iterable(ids)))}
