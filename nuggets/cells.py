"""Cells: blocks in the store that never change, found by what they hold.

```
cells/<scoring key>/<first>-<last>/<digest>.parquet     one row per candidate, one float32 column per anchor
damaged/cells/...                                       blocks that were set aside
```

The scoring key stands for model, profile, limits and number format; `first` and `last` are the leading digits of the
candidate ids between which a folder's blocks lie, so that a listing tells where a candidate can be; the digest is that
of a block's content, and is verified at reading. NaN means 'not in this block'. The file also holds a digest of each
column: who wants a few anchors reads and verifies these, and pays nothing for those of other runs.

Blocks are joined, never replaced: of two numbers for one cell (two devices may round differently) the larger is
taken, so that neither order nor repetition matters. A block is deleted only when another one is stored that holds all
that it holds, and more. Joining only ever adds: of several writers that join the same blocks, none can delete what
another one has put in their place.
"""

import hashlib
import json
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nuggets.columns import read_chosen, read_table, short_of_memory_named, table_bytes
from nuggets.errors import DamagedTable, StoreError
from nuggets.store import Store

logger = logging.getLogger(__name__)

FORMAT_VERSION = "2"
_EARLIER = "1"  # without digest, in folders that tell no range
_CANDIDATE = "candidate_id"
_DIGEST = "digest"  # the block's name once more
_DIGESTS = "column_digests"  # JSON: name of a column -> digest; blocks of earlier versions have none
_ID_DIGITS = 8  # of an id in a folder's name
_NAN = np.float32(np.nan)


@dataclass(frozen=True, slots=True)
class CellBlock:
    """Cells (nats) of some candidates and anchors: `values` is `(candidates, anchors)`, float32, NaN where unknown."""

    candidate_ids: tuple[str, ...]
    anchor_ids: tuple[str, ...]
    values: NDArray[np.float32]

    @property
    def digest(self) -> str:
        """Identity of the content, the same for the same cells in whatever order they stand."""
        return _digest(_ordered(self))


def cells_folder(key: str, candidate_ids: Sequence[str]) -> str:
    """The folder of the blocks that a task writes for candidates between the least and the greatest of these ids."""
    return f"cells/{key}/{min(candidate_ids)[:_ID_DIGITS]}-{max(candidate_ids)[:_ID_DIGITS]}"


def folder_range(path: str) -> tuple[str, str]:
    """The leading digits between which the candidates of a block lie, from its path."""
    first, dash, last = path.split("/")[2].partition("-")
    return (first, last) if dash else ("", "g")  # an earlier version's folder: anything from the first to the last id


def write_block(store: Store, folder: str, block: CellBlock) -> str:
    """Store a block whole; returns its path. Writing the same block twice changes nothing."""
    block = _ordered(block)
    digest = _digest(block)
    path = f"{folder}/{digest}.parquet"
    columns = {_CANDIDATE: pa.array(block.candidate_ids, pa.string())}
    columns |= {anchor: pa.array(block.values[:, index]) for index, anchor in enumerate(block.anchor_ids)}
    digests = {name: _column_digest(name, column) for name, column in columns.items()}
    metadata = {"format_version": FORMAT_VERSION, _DIGEST: digest, _DIGESTS: json.dumps(digests)}
    store.write(path, table_bytes(columns, metadata=metadata))
    return path


def list_blocks(store: Store, folder: str) -> list[str]:
    """Paths of the blocks below a folder."""
    return store.list(folder, suffix=".parquet")


def read_block(store: Store, path: str, anchor_ids: Sequence[str] | None = None) -> CellBlock | None:
    """The block at a path, candidates in the order of ids; None if it is damaged, which is said in a warning, and it
    is set aside.

    With `anchor_ids` others may be left out. Raises StoreError for a block of another format or a store that can't be
    read now, and FileNotFoundError if it is not there (any more: another process may have joined it with others).
    """
    if anchor_ids is not None and (part := _verified_part(store, path, anchor_ids)) is not None:
        return part
    try:
        return _verified(store, path)
    except _Damaged as error:
        first = error
    # A disk, a cable or memory may have turned a bit on the way: GPU hours are not given up for a single reading.
    try:
        block = _verified(store, path)
    except _Damaged as error:
        _set_aside(store, path, str(error))
        return None
    logger.warning("%s was read wrongly once (%s), and rightly when it was read again", store.uri(path), first)
    return block


def _verified(store: Store, path: str) -> CellBlock:
    try:
        with short_of_memory_named(store, path):
            table = read_table(store, path)
            version = (table.schema.metadata or {}).get(b"format_version", b"none").decode()
            if version not in (FORMAT_VERSION, _EARLIER):
                raise _unknown_format(store, path, version)
            anchors = [name for name in table.column_names if name != _CANDIDATE]
            columns = [table[name].to_numpy() for name in anchors]
            values = np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0), dtype=np.float32)
            block = _ordered(CellBlock(tuple(table[_CANDIDATE].to_pylist()), tuple(anchors), values))
            whole = version == _EARLIER or _digest(block) == _named(path)
    except (DamagedTable, KeyError, ValueError, TypeError) as error:  # names and types in a footer have no checksum
        raise _Damaged(f"{error.__cause__ or error}") from error
    if not whole:
        raise _Damaged("its content is not what its name says")
    return block


def _verified_part(store: Store, path: str, anchor_ids: Sequence[str]) -> CellBlock | None:
    """Of a block the columns of some anchors; None where they can't be verified by themselves, for whatever reason."""
    digests: dict[str, str] = {}

    def choose(schema: Any) -> list[str]:
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        digests.update(json.loads(metadata.get(_DIGESTS, "{}")))
        known = (metadata.get("format_version"), metadata.get(_DIGEST)) == (FORMAT_VERSION, _named(path))
        if not known or set(digests) != set(schema.names):  # a name that lost a bit would be a column less, unnoticed
            raise _Damaged("it does not tell the digests of its columns")
        wanted = [anchor for anchor in dict.fromkeys(anchor_ids) if anchor in digests]
        return [_CANDIDATE, *wanted] if wanted else []

    try:
        with short_of_memory_named(store, path):
            table = read_chosen(store, path, choose)
            columns = {name: table[name].combine_chunks() for name in table.column_names}
            if any(_column_digest(name, column) != digests[name] for name, column in columns.items()):
                return None
            if not columns:
                return CellBlock((), (), np.empty((0, 0), dtype=np.float32))
            ids = tuple(columns.pop(_CANDIDATE).to_pylist())
            return CellBlock(ids, tuple(columns), np.stack([column.to_numpy() for column in columns.values()]).T)
    except (_Damaged, DamagedTable, KeyError, ValueError, TypeError):  # the whole is looked at, and judged by its name
        return None


def _column_digest(name: str, column: Any) -> str:
    """Identity of a column's name, type and values."""
    content = hashlib.sha256(f"{name} {column.type} {len(column)}\n".encode())
    content.update("\n".join(column.to_pylist()).encode() if name == _CANDIDATE else column.to_numpy().tobytes())
    return content.hexdigest()[:16]


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


def _ordered(block: CellBlock) -> CellBlock:
    """The same block with candidates and anchors in the order of their ids, one kind of NaN and one kind of zero."""
    candidates = sorted(range(len(block.candidate_ids)), key=block.candidate_ids.__getitem__)
    places = {anchor: place for place, anchor in enumerate(block.anchor_ids)}
    anchors = sorted(places)
    values = block.values[np.ix_(candidates, [places[anchor] for anchor in anchors])]
    ids = tuple(block.candidate_ids[row] for row in candidates)
    return CellBlock(ids, tuple(anchors), np.where(np.isnan(values), _NAN, values + np.float32(0)))


def _named(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")


def _digest(ordered: CellBlock) -> str:
    content = hashlib.sha256(repr((ordered.candidate_ids, ordered.anchor_ids)).encode())
    content.update(np.ascontiguousarray(ordered.values).tobytes())
    return content.hexdigest()[:32]


def _set_aside(store: Store, path: str, why: str) -> None:
    aside = f"damaged/{path}"
    done = f"set aside as {store.uri(aside)}"
    try:
        store.write(aside, store.read(path))
        store.remove(path)
    except StoreError as error:  # a store that can't be written is read without it
        done = f"left where it is ({error})"
    logger.warning("%s is damaged (%s): %s; its cells are computed again where needed", store.uri(path), why, done)


class _Damaged(Exception):
    """Why what lies at a block's path is not the block that was written there."""


def _unknown_format(store: Store, path: str, version: str) -> StoreError:
    return StoreError(
        f"{store.uri(path)} has format version {version}, this program reads {_EARLIER} and {FORMAT_VERSION}: "
        "use the version of nuggets that wrote it, or another store"
    )
