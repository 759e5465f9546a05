"""Where the elements of a JSON array begin and end, and where values that follow one another do."""

from collections.abc import Iterable, Iterator

from nuggets.pools.readers.json_tokens import COMMA, OPENING, QUOTE, TOKEN, joined, whole_escapes

NEXT_ELEMENT, ARRAY_END, CUT_OFF, AFTER_ARRAY = ",", "]", "", "after"  # what ended an element


def split_array(pieces: Iterable[bytes], limit: int) -> Iterator[tuple[bytes, str]]:
    """Each element's bytes, without space around them, and what ended it.

    An element of more than `limit` bytes comes out as its first `limit` + 1. The last element is ended by ARRAY_END
    (it is empty if the array is, or after a trailing comma) or, where the file ends too early, by CUT_OFF. What
    follows the array, if anything, comes as one more item, AFTER_ARRAY.
    """
    element, depth, in_string = b"", 0, False
    whole = whole_escapes(pieces)
    for piece in whole:
        start = 0  # in this piece, of what belongs to the element
        if in_string:
            piece, start = b'"' + piece, 1  # as if the string began here; the added quote stays outside the element
        for token in TOKEN.finditer(piece):
            mark = piece[token.start()]
            if mark == QUOTE:
                in_string = not token[1]  # without its closing quote, it is the last token of the piece
            elif mark in OPENING:
                depth += 1
                if depth == 1:
                    element, start = b"", token.end()
            else:
                depth -= mark != COMMA
                if depth == 0 or (depth == 1 and mark == COMMA):
                    yield joined(element, piece[start : token.start()], limit).rstrip(), chr(mark)
                    element, start = b"", token.end()
                if depth == 0:
                    yield from _after_array(piece[start:], whole)
                    return
        element = joined(element, piece[start:], limit)
    yield element, CUT_OFF


def split_objects(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Each of the objects that follow one another, from one bracket to the one that closes it.

    An object of more than `limit` bytes comes out as its first `limit` + 1. What lies between objects comes out as the
    start of the next one, and what follows the last one, or is cut off, as one more item.
    """
    element, depth, in_string = b"", 0, False
    for piece in whole_escapes(pieces):
        start = 0
        if in_string:
            piece, start = b'"' + piece, 1
        for token in TOKEN.finditer(piece):
            mark = piece[token.start()]
            if mark == QUOTE:
                in_string = not token[1]
            elif mark in OPENING:
                depth += 1
            elif mark != COMMA:
                depth -= 1
                if depth <= 0:
                    yield joined(element, piece[start : token.end()], limit)
                    element, start, depth = b"", token.end(), 0
        element = joined(element, piece[start:], limit)
    if element:
        yield element


def _after_array(rest: bytes, pieces: Iterator[bytes]) -> Iterator[tuple[bytes, str]]:
    while not rest.strip():
        following = next(pieces, None)
        if following is None:
            return
        rest = following
    yield rest, AFTER_ARRAY
