"""Cells: blocks in the store that never change, found by what they hold.

```
cells/<scoring key>/<group>/<block>.parquet     one row per candidate, one float32 column per anchor
```

The scoring key stands for model, profile, limits and number format; a group for the candidates that one task was
given, so that a task that starts again needs to look into its own blocks only; a block for what it holds. NaN
means 'not in this block'. A cell that stands in two blocks is the same number twice, up to rounding of the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nuggets.addresses import digest
from nuggets.columns import read_table, table_bytes
from nuggets.errors import StoreError
from nuggets.store import Store

FORMAT_VERSION = "1"
_CANDIDATE = "candidate_id"


@dataclass(frozen=True, slots=True)
class CellBlock:
    """Cells (nats) of some candidates and anchors: `values` is `(candidates, anchors)`, float32, NaN where unknown."""

    candidate_ids: tuple[str, ...]
    anchor_ids: tuple[str, ...]
    values: NDArray[np.float32]


def group_of(candidate_ids: Sequence[str]) -> str:
    """The group that a task's candidates form."""
    return digest(list(candidate_ids))[:16]


def write_block(store: Store, key: str, group: str, block: CellBlock) -> str:
    """Store a block whole; returns its path. Writing the same block twice changes nothing."""
    name = digest([list(block.candidate_ids), list(block.anchor_ids)])[:16]
    path = f"cells/{key}/{group}/{name}.parquet"
    columns = {_CANDIDATE: pa.array(block.candidate_ids, pa.string())}
    columns |= {anchor: pa.array(block.values[:, index]) for index, anchor in enumerate(block.anchor_ids)}
    store.write(path, table_bytes(columns, metadata={"format_version": FORMAT_VERSION, "scoring_key": key}))
    return path


def read_cells(
    store: Store, key: str, candidate_ids: Sequence[str], anchor_ids: Sequence[str], *, group: str | None = None
) -> NDArray[np.float32]:
    """Stored cells `(candidates, anchors)` in the order asked for, NaN where there is none; one group's, or all.

    Raises StoreError for a damaged block or one of another format.
    """
    values = np.full((len(candidate_ids), len(anchor_ids)), np.nan, dtype=np.float32)
    position = {candidate: index for index, candidate in enumerate(candidate_ids)}
    for path in store.list(f"cells/{key}/{group}" if group else f"cells/{key}"):
        if not path.endswith(".parquet"):
            continue
        table = read_table(store, path)
        version = (table.schema.metadata or {}).get(b"format_version", b"none").decode()
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{store.uri(path)} has format version {version}, this program reads {FORMAT_VERSION}: "
                "use the version of nuggets that wrote it, or another store"
            )
        places = [(row, position[item]) for row, item in enumerate(table[_CANDIDATE].to_pylist()) if item in position]
        if not places:
            continue
        rows, targets = (np.array(side) for side in zip(*places, strict=True))
        known = set(table.column_names)
        for column, anchor in enumerate(anchor_ids):
            if anchor in known:
                found = table[anchor].to_numpy()[rows]
                values[targets, column] = np.where(np.isnan(found), values[targets, column], found)
    return values
