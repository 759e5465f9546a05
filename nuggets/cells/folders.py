"""Folders of cell blocks: which candidates one covers, reading all of its blocks, joining them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nuggets.cells.blocks import CellBlock, read_block, write_block
from nuggets.cells.conflicts import conflicting, join_cells
from nuggets.errors import StoreError, StoreUnavailable
from nuggets.store.store import Store

_ID_DIGITS = 8  # of an id in a folder's name
_NO_CONFLICTS = np.empty((0, 2), dtype=np.intp)


def cells_folder(key: str, candidate_ids: Sequence[str]) -> str:
    """The folder of the blocks that a task writes for candidates from the smallest to the largest of these ids."""
    return f"cells/{key}/{min(candidate_ids)[:_ID_DIGITS]}-{max(candidate_ids)[:_ID_DIGITS]}"


def folder_range(path: str) -> tuple[str, str]:
    """First and last leading digits of the candidate ids in a block, from its path.

    Raises StoreError for another path.
    """
    first, dash, last = path.split("/")[2].partition("-")
    if not dash:
        raise StoreError(
            f"{path} is not a block of cells: its folder is not named <first>-<last> after candidate ids; move the "
            "file out of the store's folder cells"
        )
    return first, last


def list_blocks(store: Store, folder: str) -> list[str]:
    """Paths of the blocks below a folder."""
    return store.list(folder, suffix=".parquet")


def read_folder(store: Store, folder: str, anchor_ids: Sequence[str] | None = None) -> list[CellBlock]:
    """The undamaged blocks of a folder, also while other processes join some of them.

    With `anchor_ids`, columns of other anchors may be left out. Raises StoreError for a block that two listings show
    and that cannot be opened.
    """
    missing: set[str] = set()
    while True:
        path = ""
        blocks = []
        try:
            for path in list_blocks(store, folder):
                blocks.append(read_block(store, path, anchor_ids))
        except FileNotFoundError as error:
            # Another process may have joined it with others since it was listed; a new listing shows their block.
            if path in missing:
                raise listed_but_missing(store, path) from error
            missing.add(path)
            continue
        return [block for block in blocks if block is not None]


def read_cells(
    store: Store, folder: str, candidate_ids: Sequence[str], anchor_ids: Sequence[str]
) -> NDArray[np.float32]:
    """A folder's cells `(candidates, anchors)` in the order asked for, NaN for a missing cell."""
    values = np.full((len(candidate_ids), len(anchor_ids)), np.nan, dtype=np.float32)
    ids = pa.array(candidate_ids, pa.string())
    for block in read_folder(store, folder, anchor_ids):
        take_cells(block, ids, anchor_ids, values)
    return values


def take_cells(
    block: CellBlock, candidate_ids: pa.Array, anchor_ids: Sequence[str], values: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Join the cells of a block into `values` `(candidates, anchors)`, which changes in place.

    Returns the positions `(conflicts, 2)` in `values` of cells that held another value.
    """
    column_of = {anchor: column for column, anchor in enumerate(block.anchor_ids)}
    pairs = [(target, column_of[anchor]) for target, anchor in enumerate(anchor_ids) if anchor in column_of]
    if not pairs or not len(candidate_ids):
        return _NO_CONFLICTS
    # A wide block is read for shard after shard, each of which needs a short stretch of it.
    bounds = pc.min_max(candidate_ids)
    start = bisect_left(block.candidate_ids, bounds["min"].as_py())
    stop = bisect_right(block.candidate_ids, bounds["max"].as_py())
    matches = pc.index_in(candidate_ids, value_set=pa.array(block.candidate_ids[start:stop], pa.string()))
    target_rows = np.flatnonzero(matches.is_valid().to_numpy(zero_copy_only=False))
    if not len(target_rows):
        return _NO_CONFLICTS
    rows = matches.drop_null().to_numpy() + start
    target_columns, columns = (np.array(side) for side in zip(*pairs, strict=True))
    target = np.ix_(target_rows, target_columns)
    values[target], conflicts = join_cells(
        values[target],
        block.values[np.ix_(rows, columns)],
        candidate_ids=[block.candidate_ids[row] for row in rows],
        anchor_ids=[block.anchor_ids[column] for column in columns],
    )
    return np.stack([target_rows[conflicts[:, 0]], target_columns[conflicts[:, 1]]], axis=1)


def compact(store: Store, folder: str) -> None:
    """Join the blocks of a folder, so that the number of objects grows with shards and not with commits.

    Blocks that hold different values for a cell stay apart: no value is lost, and every reader can count conflicts.
    """
    paths = list_blocks(store, folder)
    if len(paths) < 2:
        return
    try:
        blocks = {path: block for path in paths if (block := read_block(store, path)) is not None}
    except FileNotFoundError:  # another process is joining them
        return
    for members, block in _joined(blocks):
        if len(members) > 1:
            whole = write_block(store, folder, block)
            for path in members:
                if path != whole:
                    store.remove(path)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Blocks without a conflict among them, in a table of all candidates and anchors of a folder."""

    values: NDArray[np.float32]
    members: list[str]


def _joined(blocks: Mapping[str, CellBlock]) -> list[tuple[list[str], CellBlock]]:
    """The joined blocks, as few as conflicts allow, each with the paths of the blocks that it holds."""
    row_of = _positions(block.candidate_ids for block in blocks.values())
    column_of = _positions(block.anchor_ids for block in blocks.values())
    layers: list[_Layer] = []
    for path, block in blocks.items():
        target = np.ix_([row_of[key] for key in block.candidate_ids], [column_of[key] for key in block.anchor_ids])
        layer = next((layer for layer in layers if not len(conflicting(layer.values[target], block.values))), None)
        if layer is None:
            layer = _Layer(np.full((len(row_of), len(column_of)), np.nan, dtype=np.float32), [])
            layers.append(layer)
        layer.members.append(path)
        layer.values[target] = np.where(np.isnan(block.values), layer.values[target], block.values)
    joined = []
    for layer in layers:
        members = [blocks[path] for path in layer.members]
        candidates = tuple(_positions(block.candidate_ids for block in members))
        anchors = tuple(_positions(block.anchor_ids for block in members))
        target = np.ix_([row_of[key] for key in candidates], [column_of[key] for key in anchors])
        joined.append((layer.members, CellBlock(candidates, anchors, layer.values[target])))
    return joined


def _positions(ids: Iterable[Sequence[str]]) -> dict[str, int]:
    """Every id once, and its position among them."""
    return {key: position for position, key in enumerate(dict.fromkeys(chain.from_iterable(ids)))}


def listed_but_missing(store: Store, path: str) -> StoreUnavailable:
    """The error for a block that two listings show and that cannot be opened."""
    return StoreUnavailable(
        f"could not read {store.uri(path)}: two listings of its folder show it, and it cannot be opened. Wait until "
        "the server's listings are consistent and run again, or delete this entry; only its cells are computed again"
    )
