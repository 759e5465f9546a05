"""The marks of JSON in a stream of bytes: strings, brackets and commas, found without decoding what they hold.

In UTF-8 no byte of another character looks like one of these marks. So bad bytes, NaN or a row of gigabytes can't
derail the search, as they would derail a streaming parser.
"""

import re
from collections.abc import Iterable, Iterator

TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)|[\[{\]},]', re.DOTALL)  # a string and its end, if seen; or a mark
QUOTE, COMMA = ord('"'), ord(",")
OPENING = b"[{"
SPACE = b" \t\r\n"


def whole_escapes(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes; a backslash at the end of a piece is moved to the next one, to the quote that it may escape."""
    held = b""
    for piece in pieces:
        whole = held + piece
        backslashes = len(whole) - len(whole.rstrip(b"\\"))
        held = b"\\" * (backslashes % 2)
        yield whole[: len(whole) - len(held)]
    yield held


def joined(element: bytes, part: bytes, limit: int) -> bytes:
    """An element with the next part of it, without space at its start, and cut after `limit` + 1 bytes."""
    if not element:
        part = part.lstrip()
    return element + part[: limit + 1 - len(element)]
