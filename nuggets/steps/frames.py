"""A run's scores and cells as tables, a part of the pool at a time, and as pandas frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nuggets.cells.sweep import ShardCells
from nuggets.errors import UsageError
from nuggets.pools.shards import read_pool_record
from nuggets.runs.manifest import Run, read_run
from nuggets.runs.selections import newest_selections
from nuggets.scores.cuts import Cut
from nuggets.scores.score_table import score_tables
from nuggets.scores.selection import Boundary, count_scores, find_boundary
from nuggets.steps.candidate_notes import read_candidate_notes
from nuggets.steps.publish import published_cut
from nuggets.steps.run_cells import RunCells, read_run_cells
from nuggets.steps.selection_files import scores_with_kept
from nuggets.store.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

_CELL_COLUMNS = pa.schema(
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
class StoredCells:
    """A run and its cells, to be read shard by shard."""

    run: Run
    cells: RunCells

    @property
    def anchor_ids(self) -> list[str]:
        """The ids of the run's anchors, in their order."""
        return [anchor.id for anchor in self.cells.anchors]

    def shards(self) -> Iterator[ShardCells]:
        """The cells of each shard as an array."""
        return self.cells.table.shards()

    def table(self, shard: ShardCells) -> Any:
        """A shard's computed cells as a pyarrow table, one row each."""
        candidates, anchors = np.nonzero(~np.isnan(shard.values))
        return pa.table(
            [
                shard.candidate_ids.take(pa.array(candidates)),
                pa.array(shard.candidate_rows[candidates]),
                pa.array(np.array(self.anchor_ids)[anchors]),
                pa.array(anchors.astype(np.int64)),
                pa.array(self.cells.baseline.zero_shot[anchors]),
                pa.array(shard.values[candidates, anchors]),
            ],
            schema=_CELL_COLUMNS,
        )


def stored_cells(store: Store, run_name: str) -> StoredCells:
    """A run's cells. Raises UsageError if the run has none."""
    run = read_run(store, run_name)
    if "scoring_key" not in run.references:
        raise UsageError(f"run '{run_name}' is {run.state} and has no cells: {run.message or 'it was not scored here'}")
    pool = read_pool_record(store, run.references["pool"])
    return StoredCells(run, read_run_cells(store, run.references["scoring_key"], pool, run.references["anchors"]))


def run_scores(store: Store, run_name: str, cut: Cut | None) -> Iterator[Any]:
    """A run's scores as pyarrow tables, `kept` by the cut, or null without one."""
    run = read_run(store, run_name)
    tables, notes = score_tables(store, run), read_candidate_notes(store, run)
    boundary: Boundary | None = None
    if cut is not None:
        boundary, _ = find_boundary(tables, count_scores(tables()), cut)
    return (scores_with_kept(table, boundary, notes) for table in tables())


def scores_frame(store: Store, run_name: str, selection: str | None) -> "DataFrame":
    """A run's scores, as `nuggets.load_scores` documents them."""
    selections = newest_selections(store, run_name)
    has_cut = selections or selection is not None
    cut = published_cut(selections, run_name, selection) if has_cut else None
    frame: DataFrame = pa.concat_tables(run_scores(store, run_name, cut)).to_pandas()
    return frame


def cells_frame(store: Store, run_name: str, *, wide: bool) -> "DataFrame":
    """A run's cells, as `nuggets.load_cells` documents them."""
    from pandas import DataFrame, Index

    cells = stored_cells(store, run_name)
    if not wide:
        frame: DataFrame = pa.concat_tables(map(cells.table, cells.shards())).to_pandas()
        return frame
    shards = list(cells.shards())
    ids = pa.chunked_array([shard.candidate_ids for shard in shards], pa.string()).to_pandas()
    values = np.concatenate([shard.values for shard in shards])
    return DataFrame(
        values, index=Index(ids, name="candidate_id"), columns=Index(range(values.shape[1]), name="anchor_row")
    )
