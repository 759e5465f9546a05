"""A pool, row by row: what is usable and, with a reason, what is not."""

from collections.abc import Iterator
from dataclasses import replace

from nuggets.examples import RECOGNISED, FieldNames, PoolRow, Reject
from nuggets.readers.exchanges import parse_row
from nuggets.readers.faults import Fault
from nuggets.readers.rows import read_rows
from nuggets.readers.sources import PoolSource


def read_pool(source: PoolSource, *, max_row_bytes: int, names: FieldNames = RECOGNISED) -> Iterator[PoolRow | Reject]:
    """Every row of the pool once, in source order, numbered from 0; a few rows are in memory at a time.

    Raises InputError, after the rows before it, where a file is damaged so that its later rows can't be told apart.
    """
    for row, (line, value) in enumerate(read_rows(source, max_row_bytes=max_row_bytes)):
        if isinstance(value, Fault):
            yield Reject(row, value.reason, value.detail, line)
        else:
            item = parse_row(row, value, names)
            yield replace(item, line=line) if isinstance(item, Reject) else item
