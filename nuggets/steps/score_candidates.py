"""Compute golden scores from a run's cells and baseline."""

from collections.abc import Iterator

import numpy as np

from nuggets.anchors.anchor_set import read_anchors
from nuggets.anchors.baseline import read_baseline
from nuggets.cells.sweep import sweep_cells
from nuggets.cells.unscorable import read_unscorable
from nuggets.pools.shards import Pool
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.anchor_wins import count_wins, write_anchor_wins
from nuggets.scores.golden import ScoreTable, eligible_cells, score_table
from nuggets.scores.score_table import write_score_table
from nuggets.scores.wins import cell_gains


def score_candidates(prepared: PreparedRun, pool: Pool, anchors_path: str) -> None:
    """Compute and store a run's golden scores, intervals where a race left cells out, and its anchors' wins."""
    store = prepared.store
    anchors = read_anchors(store, anchors_path)
    anchor_ids = [anchor.id for anchor in anchors]
    baseline = read_baseline(store, prepared.setup.key, anchor_ids)
    aside = read_unscorable(store, prepared.setup.key, anchor_ids) if prepared.max_bad_candidates else frozenset[str]()

    def tables() -> Iterator[ScoreTable]:
        counted = np.zeros((2, len(anchors)), dtype=np.int64)
        for shard in sweep_cells(store, prepared.setup.key, pool.shards, anchor_ids):
            eligible = eligible_cells(
                shard.candidate_ids,
                anchor_ids,
                keep_own_cell=prepared.setup.profile == "released",
                set_aside=aside,
            )
            counted += count_wins(cell_gains(shard.values, baseline.zero_shot), eligible)
            yield score_table(
                shard.values,
                baseline.zero_shot,
                baseline.response_tokens,
                candidate_ids=shard.candidate_ids,
                candidate_rows=shard.candidate_rows,
                shard=shard.index,
                eligible=eligible,
            )
        # Before the golden scores take their place: killed in between, the run is judged again, as it was before.
        write_anchor_wins(store, prepared.name, anchors, baseline, counted)

    write_score_table(store, prepared.name, tables())
