"""A pool in the store: its record, its shards, and the examples in them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nuggets.examples import Example
from nuggets.store.parquet import read_table
from nuggets.store.records import read_record
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool in the store: counts of its source's rows, and the paths of its shards."""

    FORMAT: ClassVar[int] = 1
    id: str
    source: str
    rows: int
    examples: int
    duplicates: int  # rows whose example is that of an earlier row
    dropped_turns: int
    rejects: dict[str, int]  # reason -> rows
    rejects_path: str
    shards: tuple[str, ...]  # paths, in the order of example ids
    shard_examples: tuple[int, ...]
    first_rejects: dict[str, str] = field(default_factory=dict)  # reason -> position and detail of the first such row
    system_messages: int = 0  # no prompt profile has a place for them
    dropped_instances: int = 0  # inputs and outputs of an instruction beyond its first


@dataclass(frozen=True, slots=True)
class Candidate:
    """An example of the pool with its id and the 0-based number of its first row."""

    id: str
    row: int
    example: Example


def read_pool_record(store: Store, pool_id: str) -> Pool:
    """The record of an ingested pool."""
    return read_record(store, pool_record_path(pool_id), Pool)


def pool_record_path(pool_id: str) -> str:
    """Path of a pool's record. It is written last: if it exists, the shards are complete."""
    return f"pools/{pool_id}/pool.json"


def read_candidates(store: Store, shard: str) -> list[Candidate]:
    """The examples of a shard, in its order."""
    table = read_table(store, shard, ["example_id", "row", "instruction", "input", "output"])
    columns = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return [Candidate(key, row, Example(*texts)) for key, row, *texts in columns]


def read_ids(store: Store, shard: str) -> tuple[Any, Any]:
    """Example ids (a pyarrow array of strings) and rows (a numpy array) of a shard, in its order."""
    table = read_table(store, shard, ["example_id", "row"])
    return table["example_id"].combine_chunks(), table["row"].to_numpy()


def read_records(store: Store, shards: Iterable[str]) -> Iterator[tuple[Candidate, dict[str, Any]]]:
    """Candidates with their rows as they are in the source; one shard is in memory at a time."""
    for shard in shards:
        originals = read_table(store, shard, ["original"])["original"].to_pylist()
        for candidate, original in zip(read_candidates(store, shard), originals, strict=True):
            yield candidate, json.loads(original)
