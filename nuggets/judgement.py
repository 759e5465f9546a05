"""From a run's cells and baseline to its golden scores, stored as the table that every cut reads."""

import numpy as np

from nuggets.anchors import read_anchors
from nuggets.baseline import read_baseline
from nuggets.cells import read_cells
from nuggets.columns import read_table, table_bytes
from nuggets.golden import GoldenTable, golden_table
from nuggets.pool import Pool, read_ids
from nuggets.preparation import PreparedRun
from nuggets.runs import golden_path
from nuggets.store import Store, open_store


def judge_run(prepared: PreparedRun, pool: Pool, anchors_path: str) -> None:
    """Compute and store a run's golden scores; every cell has to be there."""
    store = open_store(prepared.store)
    key = prepared.setup.key
    anchor_ids = [anchor.id for anchor in read_anchors(store, anchors_path)]
    ids, rows = read_ids(store, pool.shards)
    baseline = read_baseline(store, key, anchor_ids)
    table = golden_table(
        read_cells(store, key, ids, anchor_ids),
        baseline.zero_shot,
        baseline.response_tokens,
        candidate_ids=ids,
        candidate_rows=rows,
        anchor_ids=anchor_ids,
        keep_own_cell=prepared.setup.profile == "released",
    )
    write_golden(store, prepared.name, table)


def write_golden(store: Store, run: str, table: GoldenTable) -> None:
    """Store a run's golden scores."""
    columns = {
        "candidate_id": list(table.candidate_ids),
        "candidate_row": table.candidate_rows,
        "wins": table.wins,
        "anchors": table.anchors,
        "mean_gain": table.mean_gain,
    }
    store.write(golden_path(run), table_bytes(columns))


def read_golden(store: Store, run: str) -> GoldenTable:
    """A run's golden scores. Raises FileNotFoundError if it was never scored to the end."""
    table = read_table(store, golden_path(run))
    return GoldenTable(
        tuple(table["candidate_id"].to_pylist()),
        table["candidate_row"].to_numpy().astype(np.int64),
        table["wins"].to_numpy().astype(np.int32),
        table["anchors"].to_numpy().astype(np.int32),
        table["mean_gain"].to_numpy().astype(np.float64),
    )
