"""Rows of a pool in source order, whatever its format: which reader is for which format."""

from collections.abc import Callable, Iterator
from posixpath import basename

from nuggets.examples import RECOGNISED, FieldNames, PoolRow, Position, Reject
from nuggets.pools.readers.arrow_rows import read_arrow, read_parquet
from nuggets.pools.readers.content_digest import ContentDigest
from nuggets.pools.readers.csv_rows import read_csv
from nuggets.pools.readers.detect import PoolSource
from nuggets.pools.readers.formats import Format
from nuggets.pools.readers.json_rows import read_json
from nuggets.pools.readers.parse import parse_row
from nuggets.pools.readers.stored_file import StoredFile
from nuggets.pools.readers.text_pieces import read_pieces

# Given a file, max_row_bytes and the key of the list that holds the rows, a decoded value per row, or a Reject where it
# can't be decoded or is too large. Each comes with the 1-based line in which it begins, in a format that has lines. A
# row's size is that of its bytes in a file of text, and of its JSON text in UTF-8 in a table.
Reader = Callable[[StoredFile, int, str | None], Iterator[tuple[int | None, object]]]

READERS: dict[Format, Reader] = {
    "json": read_json,
    "csv": lambda file, limit, _: read_csv(read_pieces(file), limit, address=file.address),
    "parquet": lambda file, limit, _: _without_lines(read_parquet(file, limit)),
    "arrow": lambda file, limit, _: _without_lines(read_arrow(file, limit)),
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
    for item in source.files:
        name = basename(item.address) if len(source.files) > 1 else None
        with StoredFile(item.address, source.endpoint, content) as file:
            for line, value in READERS[item.format](file, max_row_bytes, source.rows_key):
                yield Position(row, line, name), value if isinstance(value, Reject) else parse_row(value, names)
                row += 1
