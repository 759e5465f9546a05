"""Raw rows of a pool in source order, whatever its format: a JSON-like value each, or what is wrong with it."""

from collections.abc import Iterator
from dataclasses import replace

from nuggets.examples import RECOGNISED, Fault, FieldNames, PoolRow, Reject
from nuggets.pools.readers.arrow_rows import read_arrow, read_parquet
from nuggets.pools.readers.csv_rows import read_csv
from nuggets.pools.readers.detect import PoolSource
from nuggets.pools.readers.json_rows import read_array, read_lines
from nuggets.pools.readers.parse import parse_row
from nuggets.pools.readers.remote_file import read_pieces


def read_rows(source: PoolSource, *, max_row_bytes: int) -> Iterator[tuple[int | None, object]]:
    """The rows of all files of a pool: decoded values, and a Fault for each that can't be decoded or is too large.

    Each comes with the number of the line where it begins, from 1, in a format that has lines.

    A row's size is that of its bytes in a JSON file, and of its JSON text in UTF-8 if it comes from a table.
    """
    endpoint = source.endpoint
    for address in source.files:
        if source.kind == "jsonl":
            yield from read_lines(read_pieces(address, endpoint), max_row_bytes)
        elif source.kind == "json_array":
            yield from _without_lines(read_array(read_pieces(address, endpoint), max_row_bytes, address=address))
        elif source.kind in ("csv", "tsv"):
            delimiter = "," if source.kind == "csv" else "\t"
            yield from read_csv(read_pieces(address, endpoint), max_row_bytes, address=address, delimiter=delimiter)
        elif source.kind == "parquet":
            yield from _without_lines(read_parquet(address, endpoint, max_row_bytes))
        else:
            yield from _without_lines(read_arrow(address, endpoint, max_row_bytes))


def _without_lines(rows: Iterator[object]) -> Iterator[tuple[None, object]]:
    return ((None, row) for row in rows)


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
