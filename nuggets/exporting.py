"""A run's cells and scores as single Parquet files for pandas and the like."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from nuggets.anchors import read_anchors
from nuggets.baseline import read_baseline
from nuggets.cell_sweep import sweep_cells
from nuggets.columns import save_tables
from nuggets.errors import StoreError, UsageError
from nuggets.pool import MEMORY, read_pool_record
from nuggets.publishing import golden_tables, published_cut
from nuggets.runs import list_selections, read_run
from nuggets.selection import count_levels, find_boundary
from nuggets.selection_files import save_scores
from nuggets.store import Store

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
    with _replaced(out) as pending:
        return save_tables(pending, _cell_tables(store, run.references))


def export_scores(store: Store, run_name: str, out: Path, selection: str | None, *, memory: int = MEMORY) -> int:
    """Write a run's scores as they are known now, `kept` as in its newest selection or the named one; returns how many.

    A selection's own scores.parquet says what was known when it was published.
    """
    run = read_run(store, run_name)
    cut = published_cut(list_selections(store, run_name), run_name, selection)
    tables = golden_tables(store, run)
    boundary, _ = find_boundary(tables, count_levels(tables()), cut, memory=memory)
    with _replaced(out) as pending:
        return save_scores(pending, tables, boundary)


def _cell_tables(store: Store, references: dict[str, str]) -> Iterator[pa.Table]:
    anchor_ids = [anchor.id for anchor in read_anchors(store, references["anchors"])]
    shards = read_pool_record(store, references["pool"]).shards
    baseline = read_baseline(store, references["scoring_key"], anchor_ids)
    for shard in sweep_cells(store, references["scoring_key"], shards, anchor_ids):
        candidates, anchors = np.nonzero(~np.isnan(shard.values))
        yield pa.table(
            [
                shard.candidate_ids.take(pa.array(candidates)),
                pa.array(shard.candidate_rows[candidates]),
                pa.array(np.array(anchor_ids)[anchors]),
                pa.array(anchors.astype(np.int64)),
                pa.array(baseline.zero_shot[anchors]),
                pa.array(shard.values[candidates, anchors]),
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
        elsewhere = error.filename is not None and Path(error.filename) != pending
        if elsewhere or isinstance(error, StoreError):  # what was to be written could not be read
            raise
        raise StoreError(
            f"could not write {out}: {error.strerror or error}. Give --out a path in a folder you may write"
        ) from error
    finally:
        with suppress(OSError):
            pending.unlink()
