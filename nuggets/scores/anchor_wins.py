"""How often each anchor of a run is won, counted while candidates are scored and stored beside the golden scores.

```
runs/<name>/anchors.parquet     one row per anchor, most won first; an imported run has none
```
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nuggets.anchors.anchor_set import Anchor
from nuggets.anchors.baseline import Baseline
from nuggets.runs.manifest import run_folder
from nuggets.scores.wins import losses, wins
from nuggets.store.parquet import read_table, table_bytes
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class ReportedAnchor:
    """An anchor with its computed cells and the wins among them, as a report shows it."""

    row: int  # its position in the anchor set, from 0
    pool_row: int | None
    loss: float | None  # zero-shot, nats per response token; None if the token limit left no response
    wins: int
    cells: int
    times: int  # how often the anchor set contains its text
    instruction: str
    output: str
    passed_over: int = 0  # examples nearer to the centre of its cluster that failed a check

    @property
    def remark(self) -> str:
        """Why the anchor is of little use; empty for a good one."""
        remarks = ["no response within the token limit"] if self.loss is None else []
        if self.cells == 0:
            remarks.append("no cell")
        elif self.wins == 0:
            remarks.append("never won")
        elif self.wins == self.cells:
            remarks.append("always won")
        if self.passed_over:
            remarks.append(f"{self.passed_over} nearer passed over")
        if self.times > 1:
            remarks.append(f"in the anchor set {self.times} times")
        return ", ".join(remarks)


def anchor_wins_path(run: str) -> str:
    """Where the wins of a run's anchors are stored."""
    return f"{run_folder(run)}/anchors.parquet"


def count_wins(gains: NDArray[np.float32], eligible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Wins and cells of each anchor `(2, anchors)`, given gains `(candidates, anchors)`, NaN where not computed."""
    won, lost = (outcomes.sum(axis=0) for outcomes in (wins(gains, eligible), losses(gains, eligible)))
    return np.stack([won, won + lost]).astype(np.int64)


def write_anchor_wins(
    store: Store, run: str, anchors: Sequence[Anchor], baseline: Baseline, counted: NDArray[np.int64]
) -> None:
    """Store the sums of `count_wins` over all candidates, with the anchors' texts and baseline."""
    won, cells = counted
    rate = won / np.where(cells > 0, cells, np.nan)
    tokens = baseline.response_tokens
    order = np.argsort(np.where(np.isnan(rate), np.inf, -rate), kind="stable")  # anchors without a cell last
    columns = {
        "anchor_row": pa.array(range(len(anchors)), pa.int64()),
        "anchor_id": pa.array([anchor.id for anchor in anchors], pa.string()),
        "pool_row": pa.array([anchor.pool_row for anchor in anchors], pa.int64()),
        "passed_over": pa.array([anchor.passed_over for anchor in anchors], pa.int64()),
        "instruction": pa.array([anchor.example.instruction for anchor in anchors], pa.string()),
        "input": pa.array([anchor.example.input for anchor in anchors], pa.string()),
        "output": pa.array([anchor.example.output for anchor in anchors], pa.string()),
        "zero_shot": pa.array(baseline.zero_shot),
        "response_tokens": pa.array(tokens),
        "zero_shot_loss": pa.array(-baseline.zero_shot / np.maximum(tokens, 1), pa.float32(), mask=tokens == 0),
        "wins": pa.array(won),
        "cells": pa.array(cells),
        "win_rate": pa.array(rate, mask=cells == 0),
    }
    store.write(anchor_wins_path(run), table_bytes({name: column.take(order) for name, column in columns.items()}))


def read_anchor_wins(store: Store, run: str) -> tuple[ReportedAnchor, ...] | None:
    """A run's anchors, most won first; None for an imported run, which has no cells."""
    path = anchor_wins_path(run)
    if not store.exists(path):
        return None
    rows = read_table(store, path).to_pylist()
    times = Counter(row["anchor_id"] for row in rows)
    return tuple(
        ReportedAnchor(
            row=row["anchor_row"],
            pool_row=row["pool_row"],
            loss=row["zero_shot_loss"],
            wins=row["wins"],
            cells=row["cells"],
            times=times[row["anchor_id"]],
            instruction=row["instruction"],
            output=row["output"],
            passed_over=row["passed_over"],
        )
        for row in rows
    )
