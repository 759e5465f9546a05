"""Rows of JSON in every layout: cut out of the byte stream one at a time, then decoded on their own.

All layouts share one decoder, so that a row decodes to the same value in each. It accepts what Python's json module
writes (NaN, Infinity, and pairs of escaped surrogates) and literal tabs and line ends inside strings.
"""

import json
from collections.abc import Iterable, Iterator

from nuggets.errors import InputError
from nuggets.examples import row_too_large, undecodable
from nuggets.pools.readers.json_array import ARRAY_END, CUT_OFF, NEXT_ELEMENT, split_array, split_objects
from nuggets.pools.readers.json_layout import find_layout, is_cut
from nuggets.pools.readers.json_tokens import SPACE
from nuggets.pools.readers.stored_file import StoredFile
from nuggets.pools.readers.text_pieces import read_pieces

_DECODER = json.JSONDecoder(strict=False)


def read_json(file: StoredFile, max_row_bytes: int, rows_key: str | None) -> Iterator[tuple[int | None, object]]:
    """The rows of a file in any layout, with the line of each in JSON Lines.

    `rows_key`: see find_layout. Raises UsageError as find_layout does, InputError as the reader of the layout does.
    """
    layout = find_layout(read_pieces(file), rows_key=rows_key, address=file.address)
    file.seek(0)
    pieces = read_pieces(file)
    if layout.form in ("empty", "lines"):
        yield from read_lines(pieces, max_row_bytes)
        return
    rows: Iterator[object]
    if layout.form == "objects":
        rows = read_objects(pieces, max_row_bytes, address=file.address)
    elif layout.form == "array":
        rows = read_array(pieces, max_row_bytes, address=file.address)
    else:
        rows = read_array(_from(pieces, layout.start), max_row_bytes, address=file.address, is_inside_object=True)
    for row in rows:
        yield None, row


def _from(pieces: Iterator[bytes], start: int) -> Iterator[bytes]:
    """The text from a position on."""
    for piece in pieces:
        if rest := piece[start:]:
            yield rest
        start = max(0, start - len(piece))


def read_lines(pieces: Iterable[bytes], max_row_bytes: int) -> Iterator[tuple[int, object]]:
    """The row of each line that isn't blank, with its 1-based line number; a bad line rejects only its own row."""
    for number, line in enumerate(_split_lines(pieces, max_row_bytes), start=1):
        if len(line) > max_row_bytes:
            yield number, row_too_large(max_row_bytes)
        elif line and not line.isspace():
            try:
                row = _decode(line)
            except json.JSONDecodeError as error:
                row = undecodable(f"line {number} is not JSON: {error.msg} at character {error.pos + 1}")
            yield number, row


def read_array(
    pieces: Iterator[bytes], max_row_bytes: int, *, address: str, is_inside_object: bool = False
) -> Iterator[object]:
    """The row of each element. Raises InputError at a syntax error: the elements after it can't be separated.

    What follows an array inside an object is read, but not checked.
    """
    for row, (raw, ended_by) in enumerate(split_array(pieces, max_row_bytes)):
        if ended_by in (NEXT_ELEMENT, ARRAY_END) and 0 < len(raw) <= max_row_bytes:
            try:
                yield _decode(raw)
            except json.JSONDecodeError as error:
                raise _broken(address, row, raw, error) from error
        elif ended_by == NEXT_ELEMENT and not raw:
            raise InputError(f"'{address}', row {row}: empty element between two commas. Fix the file")
        elif ended_by == ARRAY_END and not raw:
            if row > 0:
                yield undecodable("empty element between the last comma and the end of the array")
        elif ended_by in (NEXT_ELEMENT, ARRAY_END, CUT_OFF):
            _check_start(raw, address, row)
            yield undecodable("the file ends inside the array") if ended_by == CUT_OFF else row_too_large(max_row_bytes)
        elif is_inside_object:
            for _ in pieces:  # so that the digest of the file is whole
                pass
        else:
            raise InputError(f"'{address}' has content after the end of its array. Remove it")


def read_objects(pieces: Iterable[bytes], max_row_bytes: int, *, address: str) -> Iterator[object]:
    """The row of each of the objects that follow one another. Raises InputError at a syntax error, as read_array."""
    for row, raw in enumerate(split_objects(pieces, max_row_bytes)):
        if not raw.strip(SPACE):
            continue
        if len(raw) > max_row_bytes:
            _check_start(raw, address, row)
            yield row_too_large(max_row_bytes)
            continue
        try:
            yield _decode(raw)
        except json.JSONDecodeError as error:
            if not is_cut(raw.decode(errors="replace"), error) or raw.endswith(b"}"):
                raise _broken(address, row, raw, error) from error
            yield undecodable("the file ends inside the object")


def _split_lines(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    # A line above the limit is cut to a little more than the limit, so that callers see that it is too long.
    pending = b""
    for piece in pieces:
        *lines, rest = piece.split(b"\n")
        for line in lines:
            yield pending + line if len(pending) <= limit else pending
            pending = b""
        if len(pending) <= limit:
            pending += rest
    if pending:
        yield pending


def _decode(raw: bytes) -> object:
    """A decoded row, or a Reject. Raises JSONDecodeError for a syntax error."""
    fault = None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        fault = undecodable(f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the row")
        text = raw.decode(errors="replace")  # its syntax is still checked: a quote may be missing, too
    try:
        value: object = _DECODER.decode(text)
    except RecursionError:
        return undecodable("lists or objects are nested too deeply")
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python refuses integers of more than 4300 digits
        return undecodable(f"a number is too long: {error}")
    return fault or value


def _check_start(raw: bytes, address: str, row: int) -> None:
    # An element that is cut, by the end of the file or by the size limit, must be valid up to the cut. If it isn't,
    # a missing quote or bracket may hide any number of good rows, and to reject them as one row would conceal that.
    text = raw.decode(errors="replace")
    try:
        _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if not is_cut(text, error):
            raise _broken(address, row, raw, error) from error
    except (RecursionError, ValueError):  # nested too deeply, or a number too long: no syntax error up to here
        return


def _broken(address: str, row: int, raw: bytes, error: json.JSONDecodeError) -> InputError:
    excerpt = ascii(raw.decode(errors="replace")[max(0, error.pos - 30) : error.pos + 30])
    return InputError(
        f"'{address}', row {row} is not JSON: {error.msg} near {excerpt}. "
        "Fix it, or write the pool as JSON Lines, where a broken row costs only itself"
    )
