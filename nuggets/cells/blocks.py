"""Blocks of cells: immutable objects in the store, named by a digest of their content.

```
cells/<scoring key>/<first>-<last>/<digest>.parquet     one row per candidate, one float32 column per anchor
damaged/cells/...                                       quarantined blocks
```

The scoring key is a digest of model, profile, limits and dtype. `first` and `last` are leading digits of candidate ids:
all candidates of a folder lie between them, so that a listing shows where a candidate can be. The digest in the name is
verified when a block is read. NaN is a cell that the block does not hold. The file also stores a digest of each column,
so that a reader can read and verify the columns of a few anchors without those of other runs.

Blocks are joined, never changed. A block is deleted only after another block is stored that holds all its cells with
the same values, and more. So several processes may join the same blocks at once: none deletes the result of another.
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
from nuggets.store.parquet import memory_errors_named, read_chosen, read_table, table_bytes
from nuggets.store.store import Store

logger = logging.getLogger(__name__)
FORMAT_VERSION = "2"
_CANDIDATE = "candidate_id"
_DIGEST = "digest"  # as in the block's name
_DIGESTS = "column_digests"  # JSON: name of a column -> digest
_NAN = np.float32(np.nan)


@dataclass(frozen=True, slots=True)
class CellBlock:
    """Cells (nats) of some candidates and anchors: `values` is `(candidates, anchors)`, NaN for a missing cell."""

    candidate_ids: tuple[str, ...]
    anchor_ids: tuple[str, ...]
    values: NDArray[np.float32]

    @property
    def digest(self) -> str:
        """Digest of the content; it does not depend on the order of candidates and anchors."""
        return _digest(_ordered(self))


def write_block(store: Store, folder: str, block: CellBlock) -> str:
    """Store a block; returns its path. Writing the same block twice changes nothing."""
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
    """The block at a path, candidates in the order of ids. Returns None after quarantining a damaged block.

    With `anchor_ids`, columns of other anchors may be left out. Raises StoreError for a block of another format or a
    store that cannot be read now, and FileNotFoundError if the block does not exist (any more: another process may
    have joined it with others).
    """
    if anchor_ids is not None and (part := _verified_part(store, path, anchor_ids)) is not None:
        return part
    try:
        return _verified(store, path)
    except _Damaged as error:
        first_error = error
    # Read again: the corruption may be in transit, and the block cost GPU hours.
    try:
        block = _verified(store, path)
    except _Damaged as error:
        _quarantine(store, path, str(error))
        return None
    logger.warning("%s was read wrongly once (%s); the second reading was correct", store.uri(path), first_error)
    return block


def _verified(store: Store, path: str) -> CellBlock:
    try:
        with memory_errors_named(store, path):
            table = read_table(store, path)
            version = (table.schema.metadata or {}).get(b"format_version", b"none").decode()
            if version != FORMAT_VERSION:
                raise _unknown_format(store, path, version)
            anchors = [name for name in table.column_names if name != _CANDIDATE]
            columns = [table[name].to_numpy() for name in anchors]
            values = np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0), dtype=np.float32)
            block = _ordered(CellBlock(tuple(table[_CANDIDATE].to_pylist()), tuple(anchors), values))
    except (DamagedTable, KeyError, ValueError, TypeError) as error:  # names and types in a footer have no checksum
        raise _Damaged(f"{error.__cause__ or error}") from error
    if _digest(block) != _digest_in_name(path):
        raise _Damaged("its content does not have the digest in its name")
    return block


def _verified_part(store: Store, path: str, anchor_ids: Sequence[str]) -> CellBlock | None:
    """The columns of some anchors; None if they cannot be verified without the rest of the block."""
    digests: dict[str, str] = {}

    def choose(schema: Any) -> list[str]:
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        digests.update(json.loads(metadata.get(_DIGESTS, "{}")))
        known = (metadata.get("format_version"), metadata.get(_DIGEST)) == (FORMAT_VERSION, _digest_in_name(path))
        if not known or set(digests) != set(schema.names):  # a flipped bit in a name would hide a column unnoticed
            raise _Damaged("it has no digests of its columns")
        wanted = [anchor for anchor in dict.fromkeys(anchor_ids) if anchor in digests]
        return [_CANDIDATE, *wanted] if wanted else []

    try:
        with memory_errors_named(store, path):
            table = read_chosen(store, path, choose)
            columns = {name: table[name].combine_chunks() for name in table.column_names}
            if any(_column_digest(name, column) != digests[name] for name, column in columns.items()):
                return None
            if not columns:
                return CellBlock((), (), np.empty((0, 0), dtype=np.float32))
            ids = tuple(columns.pop(_CANDIDATE).to_pylist())
            return CellBlock(ids, tuple(columns), np.stack([column.to_numpy() for column in columns.values()]).T)
    except (_Damaged, DamagedTable, KeyError, ValueError, TypeError):  # the caller verifies the whole block
        return None


def _column_digest(name: str, column: Any) -> str:
    """Digest of a column's name, type and values."""
    content = hashlib.sha256(f"{name} {column.type} {len(column)}\n".encode())
    content.update("\n".join(column.to_pylist()).encode() if name == _CANDIDATE else column.to_numpy().tobytes())
    return content.hexdigest()[:16]


def _ordered(block: CellBlock) -> CellBlock:
    """The same block with candidates and anchors in the order of their ids, and one bit pattern each for NaN and 0."""
    candidates = sorted(range(len(block.candidate_ids)), key=block.candidate_ids.__getitem__)
    column_of = {anchor: column for column, anchor in enumerate(block.anchor_ids)}
    anchors = sorted(column_of)
    values = block.values[np.ix_(candidates, [column_of[anchor] for anchor in anchors])]
    ids = tuple(block.candidate_ids[row] for row in candidates)
    return CellBlock(ids, tuple(anchors), np.where(np.isnan(values), _NAN, values + np.float32(0)))


def _digest_in_name(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")


def _digest(ordered: CellBlock) -> str:
    content = hashlib.sha256(repr((ordered.candidate_ids, ordered.anchor_ids)).encode())
    content.update(np.ascontiguousarray(ordered.values).tobytes())
    return content.hexdigest()[:32]


def _quarantine(store: Store, path: str, reason: str) -> None:
    target = f"damaged/{path}"
    action = f"moved to {store.uri(target)}"
    try:
        store.write(target, store.read(path))
        store.remove(path)
    except StoreError as error:  # a store without write permission is read without the block
        action = f"not moved ({error})"
    logger.warning("%s is damaged (%s): %s; its cells are computed again where needed", store.uri(path), reason, action)


class _Damaged(Exception):
    """Why the content at a block's path is not the block that was written there."""


def _unknown_format(store: Store, path: str, version: str) -> StoreError:
    return StoreError(
        f"{store.uri(path)} has format version {version}, this version of nuggets reads {FORMAT_VERSION}: use the "
        "version that wrote it, or another store"
    )
