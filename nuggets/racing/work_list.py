"""Work lists: which cells one scoring task computes, stored in a few bytes per candidate.

```
runs/<name>/worklists/<digest>.parquet     a row per candidate: its shard, its position there, its anchors as a bitmap
```
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nuggets.errors import StoreError
from nuggets.store.parquet import read_table, table_bytes
from nuggets.store.store import Store

FORMAT = "1"


@dataclass(frozen=True, slots=True)
class ShardWork:
    """The cells to compute of one shard.

    `positions` `(candidates,)` are those of the candidates in their shard; `cells` `(candidates, anchors)` is True
    where a cell is to be computed, in the order of the run's anchors.
    """

    positions: NDArray[np.int64]
    cells: NDArray[np.bool_]


Worklist = Mapping[str, ShardWork]  # path of a pool's shard -> its work


def shard_work(cells: NDArray[np.bool_]) -> ShardWork:
    """The work of a shard: its candidates that have a True in `cells` `(candidates, anchors)`."""
    positions = np.flatnonzero(cells.any(axis=1))
    return ShardWork(positions, cells[positions])


def split_work(work: ShardWork, pieces: int) -> list[ShardWork]:
    """The work in pieces of nearly equal numbers of candidates, in their order."""
    edges = [len(work.positions) * piece // pieces for piece in range(pieces + 1)]
    slices = [slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]
    return [ShardWork(work.positions[piece], work.cells[piece]) for piece in slices]


def join_work(pieces: Sequence[ShardWork]) -> ShardWork:
    """Several pieces of one shard's work as one."""
    return ShardWork(
        np.concatenate([piece.positions for piece in pieces]), np.concatenate([piece.cells for piece in pieces])
    )


def count_cells(worklist: Worklist) -> int:
    """How many cells a work list holds."""
    return sum(int(work.cells.sum()) for work in worklist.values())


def write_worklist(store: Store, folder: str, worklist: Worklist) -> str:
    """Store a work list; returns its path.

    The digest of its content is its name, so that two runs that plan at the same time never replace each other's list.
    """
    shards = [shard for shard, work in worklist.items() for _ in work.positions]
    positions = [work.positions for work in worklist.values()]
    bitmaps = [row.tobytes() for work in worklist.values() for row in np.packbits(work.cells, axis=1)]
    columns = {
        "shard": pa.array(shards, pa.string()),
        "position": pa.array(np.concatenate(positions) if positions else [], pa.int32()),
        "anchors": pa.array(bitmaps, pa.binary()),
    }
    anchors = max((work.cells.shape[1] for work in worklist.values()), default=0)
    content = table_bytes(columns, metadata={"format_version": FORMAT, "anchors": str(anchors)})
    path = f"{folder}/{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    store.write(path, content)
    return path


def read_worklist(store: Store, path: str) -> dict[str, ShardWork]:
    """A stored work list, shards in their order. Raises StoreError for another format than this program writes."""
    table = read_table(store, path)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata.get("format_version") != FORMAT:
        raise StoreError(
            f"{store.uri(path)} is a work list of format {metadata.get('format_version')}, this program reads format "
            f"{FORMAT}: run nuggets curate again, which writes new work lists and computes no stored cell again"
        )
    shards = table["shard"].combine_chunks().dictionary_encode()  # the dictionary is in the order of first appearance
    codes = shards.indices.to_numpy()
    positions = table["position"].to_numpy().astype(np.int64)
    cells = _unpacked(table["anchors"].to_pylist(), int(metadata["anchors"]))
    return {
        shard: ShardWork(positions[codes == code], cells[codes == code])
        for code, shard in enumerate(shards.dictionary.to_pylist())
    }


def _unpacked(bitmaps: Sequence[bytes], anchors: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(b"".join(bitmaps), dtype=np.uint8).reshape(len(bitmaps), (anchors + 7) // 8)
    return np.unpackbits(packed, axis=1, count=anchors).astype(np.bool_)
