"""From a run's cells and baseline to its golden scores, stored as the table that every cut reads."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from nuggets.anchor_wins import count_wins, write_anchor_wins
from nuggets.anchors import read_anchors
from nuggets.baseline import read_baseline
from nuggets.cell_sweep import sweep_cells
from nuggets.columns import read_batches, save_tables
from nuggets.errors import UsageError
from nuggets.golden import GoldenTable, golden_table, judged_cells
from nuggets.pool import Pool
from nuggets.preparation import PreparedRun
from nuggets.runs import golden_path
from nuggets.set_aside import read_set_aside
from nuggets.store import Store, open_store
from nuggets.temporary import temporary_folder

_ROWS_AT_ONCE = 1 << 16


def judge_run(prepared: PreparedRun, pool: Pool, anchors_path: str) -> None:
    """Compute and store a run's golden scores, intervals where a race left cells out, and its anchors' wins."""
    store = open_store(prepared.store)
    anchors = read_anchors(store, anchors_path)
    anchor_ids = [anchor.id for anchor in anchors]
    baseline = read_baseline(store, prepared.setup.key, anchor_ids)
    aside = read_set_aside(store, prepared.setup.key, anchor_ids) if prepared.max_bad_candidates else frozenset[str]()

    def tables() -> Iterator[GoldenTable]:
        counted = np.zeros((2, len(anchors)), dtype=np.int64)
        for shard in sweep_cells(store, prepared.setup.key, pool.shards, anchor_ids):
            judged = judged_cells(
                shard.candidate_ids,
                anchor_ids,
                keep_own_cell=prepared.setup.profile == "released",
                set_aside=aside,
            )
            counted += count_wins(shard.values, baseline.zero_shot, judged)
            yield golden_table(
                shard.values,
                baseline.zero_shot,
                baseline.response_tokens,
                candidate_ids=shard.candidate_ids,
                candidate_rows=shard.candidate_rows,
                shard=shard.index,
                judged=judged,
            )
        # Before the golden scores take their place: killed in between, the run is judged again, as it was before.
        write_anchor_wins(store, prepared.name, anchors, baseline, counted)

    write_golden(store, prepared.name, tables())


def write_golden(store: Store, run: str, tables: Iterable[GoldenTable]) -> None:
    """Store a run's golden scores."""
    with temporary_folder() as folder:
        file = folder / "golden.parquet"
        save_tables(file, _in_groups(tables))
        store.write_file(golden_path(run), file)


def read_golden(store: Store, run: str) -> Iterator[GoldenTable]:
    """A run's golden scores, some tens of thousands of candidates at a time, in the order of the pool.

    Raises FileNotFoundError if it was never scored to the end, UsageError if an earlier version judged it.
    """
    names = [item.name for item in fields(GoldenTable)]
    for batch in read_batches(store, golden_path(run)):
        if missing := [name for name in _stored(names) if name not in batch.column_names]:
            raise UsageError(
                f"the golden scores of run '{run}' lack {', '.join(missing)}: an earlier version of nuggets made them; "
                "run nuggets curate again, which computes no cell anew"
            )
        ids, *arrays = (batch[name] for name in _stored(names))
        yield GoldenTable(ids.combine_chunks(), *(array.to_numpy() for array in arrays))


def golden_digest(store: Store, run: str) -> str:
    """Identity of a run's golden scores as they are stored: the same scores of the same pool always have the same."""
    found = hashlib.sha256()
    with store.open(golden_path(run)) as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _stored(names: list[str]) -> list[str]:
    singular = {"candidate_ids": "candidate_id", "candidate_rows": "candidate_row", "shards": "shard"}
    return [singular.get(name, name) for name in names]


def _in_groups(tables: Iterable[GoldenTable]) -> Iterator[Any]:
    """Shards' tables as pyarrow tables of some size: a row group for each small shard would swell the file's footer."""
    waiting: list[Any] = []
    for table in tables:
        names = [item.name for item in fields(table)]
        columns = (getattr(table, name) for name in names)
        waiting.append(pa.table(dict(zip(_stored(names), columns, strict=True))))
        if sum(part.num_rows for part in waiting) >= _ROWS_AT_ONCE:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
