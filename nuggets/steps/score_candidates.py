"""Compute golden scores from a run's cells and baseline."""

from collections.abc import Iterator

import numpy as np

from nuggets.pools.shards import Pool
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.anchor_wins import count_wins, write_anchor_wins
from nuggets.scores.golden import ScoreTable, score_table
from nuggets.scores.score_table import write_score_table
from nuggets.steps.run_cells import RunCells, run_cells
from nuggets.store.store import Store


def score_candidates(prepared: PreparedRun, pool: Pool, anchors_path: str) -> int:
    """Compute and store a run's golden scores and the wins of its anchors; returns the number of conflicting cells.

    The score of a candidate with missing cells is stored as an interval. A conflicting cell is stored with more than
    one value.
    """
    conflicts: list[int] = []
    with run_cells(prepared, pool, anchors_path) as cells:
        tables = _score_tables(prepared.store, prepared.name, cells, conflicts)
        write_score_table(prepared.store, prepared.name, tables)
    return sum(conflicts)


def _score_tables(store: Store, run: str, cells: RunCells, conflicts: list[int]) -> Iterator[ScoreTable]:
    """A table per shard; `conflicts` receives the number of conflicting cells of each."""
    wins = np.zeros((2, len(cells.anchors)), dtype=np.int64)
    for shard in cells.shards():
        conflicts.append(shard.cells.conflicts)
        wins += count_wins(shard.gains, shard.eligible)
        yield score_table(
            shard.cells.values,
            cells.baseline.zero_shot,
            cells.baseline.response_tokens,
            candidate_ids=shard.cells.candidate_ids,
            candidate_rows=shard.cells.candidate_rows,
            shard=shard.cells.index,
            eligible=shard.eligible,
        )
    # Stored before the golden scores replace the earlier ones: a process killed in between leaves a run that has to be
    # scored again, as before.
    write_anchor_wins(store, run, cells.anchors, cells.baseline, wins)
