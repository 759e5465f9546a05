"""Sorting rows that do not fit into memory, by way of the local disk.

Rows are spread over buckets, each for one range of keys. Once the rows in memory exceed the limit, they are appended to
a file per bucket. Sorting then needs one bucket in memory at a time.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nuggets.store.temporary import temporary_folder

MEMORY = 512 << 20  # bytes


class ExternalSort:
    """Takes tables of one schema, and returns their rows in the order of the column `key`, ASCII strings or bytes.

    `splits` are ascending keys: bucket i holds the keys from `splits[i - 1]` up to and without `splits[i]`. Rows with
    equal keys keep the order in which they were added.
    """

    def __init__(self, folder: Path, key: str, *, splits: Sequence[bytes], memory: int) -> None:
        self._folder = folder
        self._key = key
        self._splits = np.array(list(splits), dtype=np.bytes_)
        self._memory = memory
        self._in_memory: dict[int, list[Any]] = defaultdict(list)
        self._bytes = 0
        self._spilled: set[int] = set()

    def add(self, table: Any) -> None:
        """Add the rows of a pyarrow table."""
        keys = np.array(table[self._key].to_pylist(), dtype=np.bytes_)
        bucket_of = np.searchsorted(self._splits, keys, side="right")
        by_bucket = table.take(pa.array(np.argsort(bucket_of, kind="stable")))
        buckets, counts = np.unique(bucket_of, return_counts=True)
        start = 0
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            self._in_memory[bucket].append(by_bucket.slice(start, count))
            start += count
        self._bytes += table.nbytes
        if self._bytes > self._memory:
            self._spill()

    def sorted(self, *, distinct: bool = False) -> Iterator[Any]:
        """All rows in order, a table per bucket; `distinct`: of equal keys only the first. To be called once."""
        for bucket in range(len(self._splits) + 1):
            parts = [*self._read_spilled(bucket), *self._in_memory.pop(bucket, [])]
            if not parts:
                continue
            table = pa.concat_tables(parts)
            order = pc.sort_indices(table[self._key])  # stable
            if distinct:  # found from the keys alone: other columns of repeated rows are not copied
                keys = table[self._key].take(order).combine_chunks()
                order = order.filter(pa.concat_arrays([pa.array([True]), pc.not_equal(keys[1:], keys[:-1])]))
            yield table.take(order)

    def _spill(self) -> None:
        for bucket, tables in self._in_memory.items():
            table = pa.concat_tables(tables)
            # One stream per append: files that stay open would take as many file handles as there are buckets.
            with self._file(bucket).open("ab") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
            self._spilled.add(bucket)
        self._in_memory.clear()
        self._bytes = 0

    def _read_spilled(self, bucket: int) -> Iterator[Any]:
        if bucket not in self._spilled:
            return
        with self._file(bucket).open("rb") as file:
            while file.peek(1):
                with pa.ipc.open_stream(file) as stream:
                    yield stream.read_all()
        self._file(bucket).unlink()

    def _file(self, bucket: int) -> Path:
        return self._folder / f"{bucket:05d}.arrows"


@contextmanager
def external_sort(key: str, *, splits: Sequence[bytes], memory: int) -> Iterator[ExternalSort]:
    """An ExternalSort that holds `memory` bytes of rows, and one bucket while it sorts. Its files are removed."""
    with temporary_folder() as folder:
        yield ExternalSort(folder, key, splits=splits, memory=memory)
