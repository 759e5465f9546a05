"""Rows put into buckets and taken up again bucket by bucket: sorting and joining what does not fit into memory.

Buckets stay in memory until they take more than they may; from then on they grow in files of a temporary folder.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from nuggets.store.temporary import temporary_folder


class DiskBuckets:
    """Buckets 0 to `buckets` - 1 of rows of one schema."""

    def __init__(self, folder: Path, *, buckets: int, memory: int) -> None:
        self._folder = folder
        self._memory = memory
        self.buckets = buckets
        self._held: dict[int, list[Any]] = defaultdict(list)
        self._bytes = 0
        self._spilled: set[int] = set()

    def add(self, bucket: int, table: Any) -> None:
        """Put the rows of a pyarrow table into a bucket."""
        self._held[bucket].append(table)
        self._bytes += table.nbytes
        if self._bytes > self._memory:
            self._write()

    def take(self, bucket: int) -> Any:
        """All rows of a bucket in the order in which they came, None if there are none; it is empty then."""
        parts = []
        file = self._folder / f"{bucket:05d}.arrows"
        if bucket in self._spilled:
            with file.open("rb") as stored:
                while stored.peek(1):
                    with pa.ipc.open_stream(stored) as reader:
                        parts.append(reader.read_all())
            file.unlink()
            self._spilled.discard(bucket)
        held = self._held.pop(bucket, [])
        self._bytes -= sum(table.nbytes for table in held)
        parts += held
        return pa.concat_tables(parts) if parts else None

    def _write(self) -> None:
        for bucket, tables in self._held.items():
            table = pa.concat_tables(tables)
            path = self._folder / f"{bucket:05d}.arrows"
            # A stream of its own each time: files are appended to, never held open.
            with path.open("ab") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            self._spilled.add(bucket)
        self._held.clear()
        self._bytes = 0


@contextmanager
def disk_buckets(*, buckets: int, memory: int) -> Iterator[DiskBuckets]:
    """A DiskBuckets that holds `memory` bytes at most outside its files, which are gone afterwards."""
    with temporary_folder() as folder:
        yield DiskBuckets(folder, buckets=buckets, memory=memory)


MEMORY = 512 << 20  # bytes
