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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nuggets.errors import DamagedTable, StoreError
from nuggets.store.parquet import read_chosen, read_table, short_of_memory_named, table_bytes
from nuggets.store.store import Store

logger = logging.getLogger(__name__)
FORMAT_VERSION = "2"
_EARLIER = "1"  # without digest, in folders that tell no range
_CANDIDATE = "candidate_id"
_DIGEST = "digest"  # the block's name once more
_DIGESTS = "column_digests"  # JSON: name of a column -> digest; blocks of earlier versions have none
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
