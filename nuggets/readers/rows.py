"""Raw rows of a pool in source order, whatever its format: a JSON-like value each, or what is wrong with it."""

from collections.abc import Iterator

from nuggets.readers.csv_rows import read_csv
from nuggets.readers.files import read_pieces
from nuggets.readers.json_rows import read_array, read_lines
from nuggets.readers.sources import PoolSource
from nuggets.readers.table_rows import read_arrow, read_parquet


def read_rows(source: PoolSource, *, max_row_bytes: int) -> Iterator[tuple[int | None, object]]:
    """The rows of all files of a pool: decoded values, and a Fault for each that can't be decoded or is too large.

    Each comes with the number of the line where it begins, from 1, in a format that has lines.

    A row's size is that of its bytes in a JSON file, and of its JSON text in UTF-8 if it comes from a table.
    """
    for address in source.files:
        if source.kind == "jsonl":
            yield from read_lines(read_pieces(address), max_row_bytes)
        elif source.kind == "json_array":
            yield from _without_lines(read_array(read_pieces(address), max_row_bytes, address=address))
        elif source.kind in ("csv", "tsv"):
            delimiter = "," if source.kind == "csv" else "\t"
            yield from read_csv(read_pieces(address), max_row_bytes, address=address, delimiter=delimiter)
        elif source.kind == "parquet":
            yield from _without_lines(read_parquet(address, max_row_bytes))
        else:
            yield from _without_lines(read_arrow(address, max_row_bytes))


def _without_lines(rows: Iterator[object]) -> Iterator[tuple[None, object]]:
    return ((None, row) for row in rows)
