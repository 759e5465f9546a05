"""Rows of a pool in the order of example ids, each example once, in limited memory: the contents of the shards."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from nuggets.examples import PoolRow, example_id
from nuggets.store.external_sort import ExternalSort

ID_SPLITS = [b"%02x" % first for first in range(1, 256)]  # ids are hashes: their first two digits are evenly spread
_BATCH_ROWS = 4096
_BATCH_SHARE = 8  # rows of the batch take an eighth of the memory, and as much again as a table
_BYTES_PER_ID = 1024  # of memory for each id that is remembered; an id takes a seventh of that
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
    """Takes rows one at a time, and returns them as tables in the order of example ids; of equal examples the first."""

    def __init__(self, by_id: ExternalSort, *, memory: int) -> None:
        self._by_id = by_id
        self._max_batch_bytes = memory // _BATCH_SHARE
        self._max_remembered = memory // _BYTES_PER_ID
        self._batch: list[tuple[object, ...]] = []
        self._bytes = 0
        self._remembered: set[str] = set()

    def add(self, row: int, item: PoolRow) -> None:
        """Add a row; rows have to come in the order of their numbers."""
        key = example_id(item.example)
        # All repeats of an example would be in one bucket, which is sorted in memory. Repeats of ids that were
        # removed from memory are still added, but that many different ids are spread over all buckets.
        if key in self._remembered:
            return
        if len(self._remembered) >= self._max_remembered:
            self._remembered.clear()
        self._remembered.add(key)
        texts = (item.example.instruction, item.example.input, item.example.output, _strict_json(item.original))
        self._batch.append((key, row, *texts))
        self._bytes += sum(map(len, texts))
        if len(self._batch) >= _BATCH_ROWS or self._bytes > self._max_batch_bytes:
            self._add_batch()

    def shards(self, size: int) -> Iterator[Any]:
        """Tables of `size` rows; the last may have fewer."""
        self._add_batch()
        return _in_shards(self._by_id.sorted(distinct=True), size)

    def _add_batch(self) -> None:
        if self._batch:
            columns = dict(zip(_COLUMNS.names, zip(*self._batch, strict=True), strict=True))
            self._by_id.add(pa.table(columns, schema=_COLUMNS))
        self._batch, self._bytes = [], 0


def _in_shards(tables: Iterable[Any], size: int) -> Iterator[Any]:
    """The same rows in tables of `size` rows; the last may have fewer."""
    incomplete: list[Any] = []
    rows = 0
    for table in tables:
        while rows + table.num_rows >= size:
            missing = size - rows
            yield pa.concat_tables([*incomplete, table.slice(0, missing)]).combine_chunks()
            incomplete, rows, table = [], 0, table.slice(missing)
        if table.num_rows:
            incomplete.append(table)
            rows += table.num_rows
    if incomplete:
        yield pa.concat_tables(incomplete).combine_chunks()


def _strict_json(value: object) -> str:
    """JSON that every reader takes: NaN and infinities become null, since tables hold them and JSON does not."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        cleaned = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(cleaned, ensure_ascii=False)
