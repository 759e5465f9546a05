"""A run's golden scores as they are stored: the table that every cut reads."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import pyarrow as pa

from nuggets.errors import UsageError
from nuggets.runs.manifest import Run, golden_path
from nuggets.scores.golden import ScoreTable
from nuggets.scores.selection import Tables
from nuggets.store.parquet import read_batches, save_tables
from nuggets.store.store import Store
from nuggets.store.temporary import temporary_folder

_ROWS_AT_ONCE = 1 << 16
_SINGULAR = {"candidate_ids": "candidate_id", "candidate_rows": "candidate_row", "shards": "shard"}
_COLUMNS = {_SINGULAR.get(item.name, item.name): item.name for item in fields(ScoreTable)}  # stored name -> field


def write_score_table(store: Store, run: str, tables: Iterable[ScoreTable]) -> None:
    """Store a run's golden scores."""
    with temporary_folder() as folder:
        file = folder / "golden.parquet"
        save_tables(file, _in_groups(tables))
        store.write_file(golden_path(run), file)


def read_score_table(store: Store, run: str) -> Iterator[ScoreTable]:
    """A run's golden scores, tens of thousands of candidates at a time, in the order of the pool.

    Raises FileNotFoundError if the run was never scored to the end.
    """
    for batch in read_batches(store, golden_path(run), list(_COLUMNS)):
        ids, *arrays = (batch[column] for column in _COLUMNS)
        yield ScoreTable(ids.combine_chunks(), *(array.to_numpy() for array in arrays))


def golden_digest(store: Store, run: str) -> str:
    """Digest of a run's stored golden scores; the same scores of the same pool have the same digest."""
    content = hashlib.sha256()
    with store.open(golden_path(run)) as file:
        while chunk := file.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


def _in_groups(tables: Iterable[ScoreTable]) -> Iterator[Any]:
    """Join shards' tables to larger ones: a row group for each small shard would swell the file's footer."""
    group: list[Any] = []
    for table in tables:
        group.append(pa.table({column: getattr(table, name) for column, name in _COLUMNS.items()}))
        if sum(member.num_rows for member in group) >= _ROWS_AT_ONCE:
            yield pa.concat_tables(group).combine_chunks()
            group.clear()
    if group:
        yield pa.concat_tables(group).combine_chunks()


def score_tables(store: Store, run: Run) -> Tables:
    """A function that reads a run's golden scores, from the start at every call. Raises UsageError without scores."""
    if not store.exists(golden_path(run.name)):
        raise UsageError(
            f"run '{run.name}' is {run.state} and has no golden scores yet: finish it with nuggets curate first"
        )

    def tables() -> Iterator[ScoreTable]:
        return read_score_table(store, run.name)

    return tables
