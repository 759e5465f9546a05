"""A run's cells and scores as single files for pandas and the like."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nuggets.anchors.anchor_set import read_anchors
from nuggets.anchors.baseline import read_baseline
from nuggets.cells.sweep import sweep_cells
from nuggets.errors import DamagedTable, StoreError, UsageError
from nuggets.pools.shards import read_pool_record
from nuggets.runs.manifest import Run, golden_path, list_selections, read_run
from nuggets.scores.cuts import cut_name, describe_cut
from nuggets.scores.score_table import score_tables
from nuggets.scores.selection import count_scores, find_boundary
from nuggets.steps.publish import published_cut
from nuggets.steps.selection_files import save_scores
from nuggets.store.disk_buckets import MEMORY
from nuggets.store.parquet import read_batches, save_tables
from nuggets.store.store import Store

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


@dataclass(frozen=True, slots=True)
class ExportedCells:
    """How many cells of a run were written, and how many of its full table were not.

    `gone`: how many of these the run had counted, so that they were in the store once; 0 if nothing was lost.
    """

    written: int
    left_out: int
    gone: int


@dataclass(frozen=True, slots=True)
class ExportedScores:
    """How many candidates' scores were written, and the selection that their column `kept` belongs to."""

    written: int
    selection: str
    cut: str


def export_cells(store: Store, run_name: str, out: Path) -> ExportedCells:
    """Write a run's cells, one row each with both sums in nats. Cells that are not in the store are left out."""
    extension = table_extension(out)
    run = read_run(store, run_name)
    if "scoring_key" not in run.references:
        raise UsageError(f"run '{run_name}' is {run.state} and has no cells: {run.message or 'it was not scored here'}")
    met: list[NDArray[np.int32]] = []
    with _replaced(out, extension) as pending:
        written = save_tables(pending, _cell_tables(store, run.references, met))
    candidates = np.concatenate(met)
    table = len(candidates) * len(read_anchors(store, run.references["anchors"]))
    return ExportedCells(written, table - written, _gone(store, run, candidates))


def export_anchors(store: Store, run_name: str, out: Path) -> int:
    """Write a run's anchors, in their order, as an anchor file for other runs; returns how many."""
    extension = table_extension(out)
    run = read_run(store, run_name)
    if "anchors" not in run.references:
        raise UsageError(f"run '{run_name}' is {run.state} and has no anchors: {run.message or 'it has none yet'}")
    anchors = read_anchors(store, run.references["anchors"])
    with _replaced(out, extension) as pending:
        return save_tables(pending, [pa.Table.from_pylist([asdict(anchor.example) for anchor in anchors])])


def export_scores(
    store: Store, run_name: str, out: Path, selection: str | None, *, memory: int = MEMORY
) -> ExportedScores:
    """Write a run's scores as they are known now, `kept` as in its newest selection or the named one.

    A selection's own scores.parquet says what was known when it was published.
    """
    extension = table_extension(out)
    run = read_run(store, run_name)
    tables = score_tables(store, run)
    selections = list_selections(store, run_name)
    if not selections:
        raise UsageError(
            f"run '{run_name}' has no selection yet, and the column kept shows one: make it with nuggets reselect"
        )
    cut = published_cut(selections, run_name, selection)
    boundary, _ = find_boundary(tables, count_scores(tables()), cut, memory=memory)
    with _replaced(out, extension) as pending:
        return ExportedScores(save_scores(pending, tables, boundary), cut_name(cut), describe_cut(cut))


def _gone(store: Store, run: Run, met: NDArray[np.int32]) -> int:
    """How many cells the run has counted and the store does not hold; `met`: each candidate's that were found now."""
    try:
        eligible = np.concatenate(
            [batch["cells"].to_numpy() for batch in read_batches(store, golden_path(run.name), ["cells"])]
        )
    except (FileNotFoundError, DamagedTable):  # not judged yet, or by an earlier version
        eligible = None
    if eligible is not None and len(eligible) == len(met):
        return int(np.maximum(eligible - met, 0).sum())
    if run.config.get("max_bad_candidates"):  # such a run counts cells that candidates which were set aside lack
        return 0
    counted: int = run.counts.get("cells_found", 0) + run.counts.get("cells_computed", 0)
    return max(0, counted - int(met.sum()))


def _cell_tables(store: Store, references: dict[str, str], met: list[NDArray[np.int32]]) -> Iterator[pa.Table]:
    """The cells of each shard; `met` gets how many each of its candidates has."""
    anchor_ids = [anchor.id for anchor in read_anchors(store, references["anchors"])]
    shards = read_pool_record(store, references["pool"]).shards
    baseline = read_baseline(store, references["scoring_key"], anchor_ids)
    for shard in sweep_cells(store, references["scoring_key"], shards, anchor_ids):
        there = ~np.isnan(shard.values)
        met.append(there.sum(axis=1, dtype=np.int32))
        candidates, anchors = np.nonzero(there)
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
def _replaced(out: Path, extension: str) -> Iterator[Path]:
    """Where to write a Parquet file beside `out`; once whole it takes its place, in the format of `extension`."""
    pending, converted = (out.with_name(f".pending-{kind}{out.name}") for kind in ("", "converted-"))
    try:
        yield pending
        if extension != ".parquet":
            convert_parquet(pending, converted, extension)
            os.replace(converted, pending)
        os.replace(pending, out)
    except OSError as error:
        elsewhere = error.filename is not None and Path(error.filename) not in (pending, converted)
        if elsewhere or isinstance(error, StoreError):  # what was to be written could not be read
            raise
        raise StoreError(
            f"could not write {out}: {error.strerror or error}. Give --out a path in a folder you may write"
        ) from error
    finally:
        for path in (pending, converted):
            with suppress(OSError):
                path.unlink()


EXTENSIONS = (".parquet", ".csv", ".jsonl")
_ROWS_AT_ONCE = 1 << 15


def table_extension(out: Path) -> str:
    """Which of EXTENSIONS a file's name ends with. Raises UsageError if it is none."""
    extension = out.suffix.lower()
    if extension not in EXTENSIONS:
        raise UsageError(
            f"out='{out}' ends with '{out.suffix}', which is no format of a table: allowed are {', '.join(EXTENSIONS)}"
        )
    return extension


def convert_parquet(source: Path, target: Path, extension: str) -> None:
    """Write a local Parquet file's rows as CSV or JSON lines, some ten thousand in memory at a time.

    What is unknown is empty in CSV and null in JSON lines, NaN too: not every reader knows what that is.
    """
    write = {".csv": _write_csv, ".jsonl": _write_json_lines}[extension]
    with pq.ParquetFile(source) as parquet:
        write(parquet, target)


def _write_csv(parquet: Any, target: Path) -> None:
    with pa.csv.CSVWriter(target, parquet.schema_arrow) as lines:
        for table in _tables(parquet):
            lines.write_table(table)


def _write_json_lines(parquet: Any, target: Path) -> None:
    with target.open("w", encoding="utf-8") as lines:
        for table in _tables(parquet):
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


def _tables(parquet: Any) -> Iterator[Any]:
    for batch in parquet.iter_batches(_ROWS_AT_ONCE, use_threads=False):
        columns = [pc.if_else(pc.is_nan(one), None, one) if pa.types.is_floating(one.type) else one for one in batch]
        yield pa.table(columns, schema=batch.schema)
