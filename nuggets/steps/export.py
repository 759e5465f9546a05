"""A run's cells, anchors and scores as single files for other programs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nuggets.anchors.anchor_set import read_anchors
from nuggets.errors import UsageError
from nuggets.runs.manifest import Run, golden_path, read_run
from nuggets.runs.selections import newest_selections
from nuggets.scores.cuts import cut_name, describe_cut
from nuggets.scores.score_table import score_tables
from nuggets.steps.frames import run_scores, stored_cells
from nuggets.steps.publish import published_cut
from nuggets.steps.table_file import TableStream, table_extension, write_tables
from nuggets.store.parquet import read_batches
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class ExportedCells:
    """How many cells of a run were written, and how many of its full table were not.

    `lost`: how many of these the run had counted, so that they were in the store once.
    """

    written: int
    left_out: int
    lost: int


@dataclass(frozen=True, slots=True)
class ExportedScores:
    """How many candidates' scores were written, and the selection that their column `kept` belongs to."""

    written: int
    selection: str
    cut: str


def export_cells(store: Store, run_name: str, out: Path | TableStream) -> ExportedCells:
    """Write a run's computed cells, one row each with both sums in nats."""
    table_extension(out)  # before anything is read
    cells = stored_cells(store, run_name)
    counts: list[NDArray[np.int32]] = []

    def tables() -> Iterator[Any]:
        for shard in cells.shards():
            counts.append((~np.isnan(shard.values)).sum(axis=1, dtype=np.int32))
            yield cells.table(shard)

    written = write_tables(out, tables())
    stored = np.concatenate(counts)
    return ExportedCells(written, len(stored) * len(cells.anchor_ids) - written, _lost(store, cells.run, stored))


def export_anchors(store: Store, run_name: str, out: Path | TableStream) -> int:
    """Write a run's anchors, in their order, as an anchor file for other runs; returns how many."""
    table_extension(out)
    run = read_run(store, run_name)
    if "anchors" not in run.references:
        raise UsageError(f"run '{run_name}' is {run.state} and has no anchors: {run.message or 'it has none yet'}")
    anchors = read_anchors(store, run.references["anchors"])
    return write_tables(out, [pa.Table.from_pylist([asdict(anchor.example) for anchor in anchors])])


def export_scores(store: Store, run_name: str, out: Path | TableStream, selection: str | None) -> ExportedScores:
    """Write a run's scores as they are known now, `kept` as in its newest selection or the named one.

    A selection's own scores.parquet holds what was known when it was published.
    """
    table_extension(out)
    score_tables(store, read_run(store, run_name))  # raises UsageError if there are none yet
    selections = newest_selections(store, run_name)
    if not selections:
        raise UsageError(
            f"run '{run_name}' has no selection yet, and the column kept shows one: make it with nuggets reselect"
        )
    cut = published_cut(selections, run_name, selection)
    written = write_tables(out, run_scores(store, run_name, cut))
    return ExportedScores(written, cut_name(cut), describe_cut(cut))


def _lost(store: Store, run: Run, stored: NDArray[np.int32]) -> int:
    """How many cells the run has counted and the store does not hold; `stored`: cells per candidate in the store."""
    if store.exists(golden_path(run.name)):
        batches = read_batches(store, golden_path(run.name), ["cells"])
        counted = np.concatenate([batch["cells"].to_numpy() for batch in batches])
        if len(counted) == len(stored):
            return int(np.maximum(counted - stored, 0).sum())
    if run.config.get("max_bad_candidates"):  # the run's count includes cells that unscorable candidates lack
        return 0
    total: int = run.counts.get("cells_found", 0) + run.counts.get("cells_computed", 0)
    return max(0, total - int(stored.sum()))
