"""Where the elements of a JSON array begin and end, found without decoding them and without holding the array.

Only quotes, brackets and commas matter for that, and in UTF-8 no byte of another character looks like one of
them. So bad bytes, NaN or a row of gigabytes can't derail the search, as they would derail a streaming parser.
"""

import re
from collections.abc import Iterable, Iterator

NEXT_ELEMENT, ARRAY_END, CUT_OFF, AFTER_ARRAY = ",", "]", "", "after"  # what ended an element
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)|[\[{\]},]', re.DOTALL)  # a string and its end, if seen; or a mark
_QUOTE, _COMMA = ord('"'), ord(",")
_OPENING = b"[{"


def split_array(pieces: Iterable[bytes], limit: int) -> Iterator[tuple[bytes, str]]:
    """Each element's bytes, without space around them, and what ended it.

    An element of more than `limit` bytes comes out as its first `limit` + 1. The last element is ended by ARRAY_END
    (it is empty if the array is, or after a trailing comma) or, where the file ends too early, by CUT_OFF. What
    follows the array, if anything, comes as one more item, AFTER_ARRAY.
    """
    element, depth, in_string = b"", 0, False
    whole = _whole_escapes(pieces)
    for piece in whole:
        start = 0  # in this piece, of what belongs to the element
        if in_string:
            piece, start = b'"' + piece, 1  # as if the string began here; the added quote stays outside the element
        for token in _TOKEN.finditer(piece):
            mark = piece[token.start()]
            if mark == _QUOTE:
                in_string = not token[1]  # without its closing quote, it is the last token of the piece
            elif mark in _OPENING:
                depth += 1
                if depth == 1:
                    element, start = b"", token.end()
            else:
                depth -= mark != _COMMA
                if depth == 0 or (depth == 1 and mark == _COMMA):
                    yield _joined(element, piece[start : token.start()], limit).rstrip(), chr(mark)
                    element, start = b"", token.end()
                if depth == 0:
                    yield from _after_array(piece[start:], whole)
                    return
        element = _joined(element, piece[start:], limit)
    yield element, CUT_OFF


def _joined(element: bytes, part: bytes, limit: int) -> bytes:
    if not element:
        part = part.lstrip()
    return element + part[: limit + 1 - len(element)]


def _after_array(rest: bytes, pieces: Iterator[bytes]) -> Iterator[tuple[bytes, str]]:
    while not rest.strip():
        following = next(pieces, None)
        if following is None:
            return
        rest = following
    yield rest, AFTER_ARRAY


def _whole_escapes(pieces: Iterable[bytes]) -> Iterator[bytes]:
    # Moves a backslash at the end of a piece to the next one, so that it is next to the quote it may escape.
    held = b""
    for piece in pieces:
        whole = held + piece
        backslashes = len(whole) - len(whole.rstrip(b"\\"))
        held = b"\\" * (backslashes % 2)
        yield whole[: len(whole) - len(held)]
    yield held
