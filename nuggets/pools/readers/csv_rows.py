"""Rows of CSV and TSV: the first row names the fields, and every value is a text.

Cells are separated by the mark that gives the header most cells: spreadsheets write semicolons in some languages.

A missing quote can hide any number of good rows, and nothing later in the file shows it. Reading therefore stops with
an error at the first malformed quote.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from nuggets.errors import InputError
from nuggets.examples import Reject, row_too_large, undecodable

_DELIMITERS = ",\t;|"
_TEXT = re.compile(rb'[^",;|\t\r\n]+')


def read_csv(pieces: Iterator[bytes], max_row_bytes: int, *, address: str) -> Iterator[tuple[int, object]]:
    """Each row with the number of its first line, from 1. Raises InputError for malformed quoting or a bad header."""
    header: list[str] | None = None
    first = next(pieces, b"")
    pieces, delimiter = chain([first], pieces), _delimiter(first.decode(errors="replace"))
    for line, cells in _records(pieces, max_row_bytes, address=address, delimiter=delimiter):
        if header is None:
            header = _header(cells, address)
        elif isinstance(cells, Reject):
            yield line, cells
        elif len(cells) != len(header):
            yield line, undecodable(f"the row has {len(cells)} cells, wanted {len(header)} as in the header")
        else:
            yield line, dict(zip(header, cells, strict=True))


def _delimiter(text: str) -> str:
    """The delimiter that gives the first row of a text most cells; the usual ones come first where that is equal."""

    def cells(delimiter: str) -> int:
        try:
            return len(next(filter(None, csv.reader(io.StringIO(text), delimiter=delimiter)), []))
        except csv.Error:
            return 0

    return max(_DELIMITERS, key=cells)


def _header(cells: list[str] | Reject, address: str) -> list[str]:
    if isinstance(cells, Reject):
        raise InputError(f"the header of '{address}' can't be read: {cells.detail}. Fix the file")
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise InputError(f"the header of '{address}' names {ascii(twice[0])} more than once. Rename one of the columns")
    return cells


def _records(
    pieces: Iterable[bytes], limit: int, *, address: str, delimiter: str
) -> Iterator[tuple[int, list[str] | Reject]]:
    # The shortened text of a row that is too large can still exceed Python's limit on a cell. That limit is
    # process-wide, so it is only raised.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * limit))
    size, is_utf8, lines = 0, True, 0

    def fed() -> Iterator[str]:
        nonlocal size, is_utf8, lines
        for line_bytes, line in _lines(pieces, limit):
            lines += 1
            size += line_bytes
            try:
                text = line.decode()
            except UnicodeDecodeError:
                is_utf8 = False
                text = line.decode(errors="replace")  # its quotes still delimit cells
            yield text if size <= limit else _TEXT.sub(b"x", text.encode()).decode()

    reader = csv.reader(fed(), delimiter=delimiter, strict=True)
    while True:
        size, is_utf8, first = 0, True, lines + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"'{address}', the row that begins in line {first}, has malformed quoting ({error}). Fix it, or "
                "write the pool as JSON Lines, where a broken row costs only itself"
            ) from error
        if cells is None:
            return
        if size > limit:
            yield first, row_too_large(limit)
        elif not is_utf8:
            yield first, undecodable("not UTF-8")
        elif cells:  # else the line is blank
            yield first, cells


def _lines(pieces: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes]]:
    """Size and bytes of each line, its end included; a line above the limit keeps only delimiters and quotes."""
    size, pending = 0, b""
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for part in ended:
            yield size + len(part) + 1, pending + part + b"\n"
            size, pending = 0, b""
        size += len(rest)
        pending += rest
        if size > limit:
            pending = _TEXT.sub(b"x", pending)
    if pending:
        yield size, pending
