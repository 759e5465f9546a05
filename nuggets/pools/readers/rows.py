"""Rows of a pool in source order, whatever its format: which reader is for which kind of pool."""

from collections.abc import Callable, Iterator

from nuggets.examples import RECOGNISED, FieldNames, PoolRow, Position, Reject
from nuggets.pools.readers.arrow_rows import read_arrow, read_parquet
from nuggets.pools.readers.csv_rows import read_csv
from nuggets.pools.readers.detect import Kind, PoolSource
from nuggets.pools.readers.json_rows import read_array, read_lines
from nuggets.pools.readers.parse import parse_row
from nuggets.pools.readers.remote_file import ContentDigest, StoredFile, read_pieces

# Given a file and max_row_bytes, a decoded value per row, or a Reject where it can't be decoded or is too large. Each
# comes with the 1-based line in which it begins, in a format that has lines. A row's size is that of its bytes in a
# file of text, and of its JSON text in UTF-8 in a table.
Reader = Callable[[StoredFile, int], Iterator[tuple[int | None, object]]]

READERS: dict[Kind, Reader] = {
    "jsonl": lambda file, limit: read_lines(read_pieces(file), limit),
    "json_array": lambda file, limit: _without_lines(read_array(read_pieces(file), limit, address=file.address)),
    "csv": lambda file, limit: read_csv(read_pieces(file), limit, address=file.address, delimiter=","),
    "tsv": lambda file, limit: read_csv(read_pieces(file), limit, address=file.address, delimiter="\t"),
    "parquet": lambda file, limit: _without_lines(read_parquet(file, limit)),
    "arrow_folder": lambda file, limit: _without_lines(read_arrow(file, limit)),
}


def _without_lines(rows: Iterator[object]) -> Iterator[tuple[None, object]]:
    return ((None, row) for row in rows)


def read_pool(
    source: PoolSource,
    *,
    max_row_bytes: int,
    names: FieldNames = RECOGNISED,
    content: ContentDigest | None = None,
) -> Iterator[tuple[Position, PoolRow | Reject]]:
    """Every row of the pool once, in source order, with its position; a few rows are in memory at a time.

    The bytes that are read go into `content`. Raises InputError, after the rows before it, where a file is damaged so
    that its later rows can't be separated.
    """
    row = 0
    for address in source.files:
        with StoredFile(address, source.endpoint, content) as file:
            for line, value in READERS[source.kind](file, max_row_bytes):
                yield Position(row, line), value if isinstance(value, Reject) else parse_row(value, names)
                row += 1
