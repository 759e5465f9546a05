"""Rows of a pool sorted by example id, each example once, in little memory: what ingest makes shards of."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nuggets.examples import PoolRow, example_id
from nuggets.store.disk_buckets import DiskBuckets

BUCKETS = 256  # by the first two digits of an id; one is in memory at a time
_ROWS_AT_ONCE = 4096
_WAITING_SHARE = 8  # rows that wait to be put into buckets take an eighth of the memory; as tables, as much again
_BYTES_PER_ID = 1024  # of memory for each id that is remembered, which takes a seventh of that
_COLUMNS = pa.schema(
    [
        ("example_id", pa.string()),
        ("row", pa.int64()),
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("output", pa.string()),
        ("original", pa.string()),
    ]
)


class DistinctRows:
    """Rows put in one at a time, taken out as tables in the order of example ids; of equal examples the first row."""

    def __init__(self, buckets: DiskBuckets, *, memory: int) -> None:
        self._buckets = buckets
        self._waiting_bytes = memory // _WAITING_SHARE
        self._remembered = memory // _BYTES_PER_ID
        self._waiting: dict[int, list[tuple[object, ...]]] = {}
        self._rows = self._bytes = 0
        self._seen: set[str] = set()

    def add(self, row: int, item: PoolRow) -> None:
        """Put a row in; rows have to come in the order of their numbers."""
        key = example_id(item.example)
        # Repeats would all land in one bucket, which is sorted in memory. Those of ids forgotten meanwhile still do,
        # but ids that are so many are spread over all buckets.
        if key in self._seen:
            return
        if len(self._seen) >= self._remembered:
            self._seen.clear()
        self._seen.add(key)
        texts = (item.example.instruction, item.example.input, item.example.output, _strict_json(item.original))
        self._waiting.setdefault(int(key[:2], 16), []).append((key, row, *texts))
        self._rows += 1
        self._bytes += sum(map(len, texts))
        if self._rows >= _ROWS_AT_ONCE or self._bytes > self._waiting_bytes:
            self._put_into_buckets()

    def shards(self, size: int) -> Iterator[Any]:
        """Tables of `size` rows; the last may have fewer."""
        self._put_into_buckets()
        return _in_shards(_distinct(self._buckets), size)

    def _put_into_buckets(self) -> None:
        for bucket, rows in self._waiting.items():
            columns = dict(zip(_COLUMNS.names, zip(*rows, strict=True), strict=True))
            self._buckets.add(bucket, pa.table(columns, schema=_COLUMNS))
        self._waiting.clear()
        self._rows = self._bytes = 0


def _distinct(buckets: DiskBuckets) -> Iterator[Any]:
    """The buckets' rows by id, of each id the one that came first."""
    for bucket in range(buckets.buckets):
        table = buckets.take(bucket)
        if table is None:
            continue
        # Found among ids and rows alone: to sort the whole table would be to copy all of its texts.
        order = pc.sort_indices(
            table.select(["example_id", "row"]), [("example_id", "ascending"), ("row", "ascending")]
        )
        ids = table["example_id"].take(order).combine_chunks()
        is_first = pa.concat_arrays([pa.array([True]), pc.not_equal(ids[1:], ids[:-1])])
        yield table.take(order.filter(is_first))


def _in_shards(tables: Iterable[Any], size: int) -> Iterator[Any]:
    """The same rows in tables of `size` rows; the last may have fewer."""
    waiting: list[Any] = []
    rows = 0
    for table in tables:
        while rows + table.num_rows >= size:
            taken = size - rows
            yield pa.concat_tables([*waiting, table.slice(0, taken)]).combine_chunks()
            waiting, rows, table = [], 0, table.slice(taken)
        if table.num_rows:
            waiting.append(table)
            rows += table.num_rows
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _strict_json(value: object) -> str:
    """JSON that every reader takes: NaN and infinities, which tables hold and JSON does not know, become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        cleaned = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(cleaned, ensure_ascii=False)
