"""A run's cells and scores as single Parquet files for pandas and the like."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nuggets.anchors import read_anchors
from nuggets.baseline import read_baseline
from nuggets.cells import read_cells
from nuggets.errors import StoreError, UsageError
from nuggets.pool import read_ids, read_pool_record
from nuggets.publishing import selection_scores
from nuggets.runs import list_selections, read_run
from nuggets.store import Store

_CANDIDATES_AT_ONCE = 4096
_SCHEMA = pa.schema(
    [
        ("candidate_id", pa.string()),
        ("candidate_row", pa.int64()),
        ("anchor_id", pa.string()),
        ("anchor_row", pa.int64()),
        ("zero_shot", pa.float32()),
        ("one_shot", pa.float32()),
    ]
)


def export_cells(store: Store, run_name: str, out: Path) -> int:
    """Write a run's cells, one row each with both sums in nats; returns how many. Cells not computed are left out."""
    run = read_run(store, run_name)
    if "scoring_key" not in run.references:
        raise UsageError(f"run '{run_name}' is {run.state} and has no cells: {run.message or 'it was not scored here'}")
    rows = 0
    with _replaced(out) as pending, pq.ParquetWriter(pending, _SCHEMA, compression="zstd") as writer:
        for table in _cell_tables(store, run.references):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def export_scores(store: Store, run_name: str, out: Path, selection: str | None) -> int:
    """Write the scores of a run's newest selection, or of the named one; returns how many candidates."""
    read_run(store, run_name)
    content = store.read(selection_scores(store, run_name, list_selections(store, run_name), selection))
    with _replaced(out) as pending:
        pending.write_bytes(content)
    return int(pq.read_metadata(out).num_rows)


def _cell_tables(store: Store, references: dict[str, str]) -> Iterator[pa.Table]:
    anchor_ids = [anchor.id for anchor in read_anchors(store, references["anchors"])]
    ids, rows = read_ids(store, read_pool_record(store, references["pool"]).shards)
    cells = read_cells(store, references["scoring_key"], ids, anchor_ids)
    baseline = read_baseline(store, references["scoring_key"], anchor_ids)
    for start in range(0, len(ids), _CANDIDATES_AT_ONCE):
        part = cells[start : start + _CANDIDATES_AT_ONCE]
        candidates, anchors = np.nonzero(~np.isnan(part))
        yield pa.table(
            [
                pa.array(np.array(ids[start : start + len(part)])[candidates]),
                pa.array(np.array(rows[start : start + len(part)], dtype=np.int64)[candidates]),
                pa.array(np.array(anchor_ids)[anchors]),
                pa.array(anchors.astype(np.int64)),
                pa.array(baseline.zero_shot[anchors]),
                pa.array(part[candidates, anchors]),
            ],
            schema=_SCHEMA,
        )


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """A path beside `out` that takes its place once it is whole."""
    pending = out.with_name(f".pending-{out.name}")
    try:
        yield pending
        os.replace(pending, out)
    except OSError as error:
        raise StoreError(
            f"could not write {out}: {error.strerror or error}. Give --out a path in a folder you may write"
        ) from error
    finally:
        pending.unlink(missing_ok=True)
