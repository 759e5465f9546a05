"""How the rows lie in a JSON text: one a line, as an array, as objects over several lines, or in one object's list."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from nuggets.errors import UsageError
from nuggets.pools.readers.fields import INSTRUCTION_FIELDS, ROLE_KEYS
from nuggets.pools.readers.json_object import ObjectList, ObjectShape, object_shape
from nuggets.pools.readers.json_tokens import SPACE

_PROBE_BYTES = 1 << 20
_DECODER = json.JSONDecoder(strict=False)
_COLUMNS = ("instruction", "question", "query")  # of a row these are texts
_LONGEST_TOKEN = len("-Infinity")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows are. `start`: the position in the text from which they are read."""

    form: Literal["empty", "lines", "array", "objects", "list"]
    start: int = 0


def find_layout(pieces: Iterator[bytes], *, rows_key: str | None, address: str) -> Layout:
    """The layout of a JSON text; `rows_key` is the key of the list to read in an object around several.

    An object around the rows is read to its end, because another list may follow; other texts for a megabyte. Raises
    UsageError if it can't be known which list is meant.
    """
    skipped, probe = _probe(pieces)
    text = probe.decode(errors="replace").lstrip(SPACE.decode())
    form = _form(text)
    if form == "object":
        shape = object_shape(chain([probe], pieces))
        # More objects follow where the first one is longer than the probe.
        rows = None if shape.following else _rows_list(shape, rows_key, address)
        if rows is not None:
            return Layout("list", skipped + rows.start)
        form = "objects" if "\n" in text.rstrip() else "lines"
    if rows_key is not None:
        raise UsageError(f"split='{rows_key}': '{address}' has no splits; leave split out")
    return Layout(form)


def _probe(pieces: Iterator[bytes]) -> tuple[int, bytes]:
    """The first megabyte that is not blank, and how many blank bytes come before it."""
    skipped, probe = 0, b""
    for piece in pieces:
        probe += piece
        if not probe.strip(SPACE):
            skipped, probe = skipped + len(probe), b""
        elif len(probe) >= _PROBE_BYTES:
            break
    return skipped, probe


def _form(text: str) -> Literal["empty", "lines", "array", "objects", "object"]:
    """The form of a text that may be cut at its end; `object` where it depends on what the first object holds."""
    if not text:
        return "empty"
    line, _, rest = text.partition("\n")
    next_line = rest.lstrip().partition("\n")[0]
    if next_line and _is_value(line) and (line[0] != "[" or _is_value(next_line)):
        return "lines"
    if text[0] != "{":
        return "array" if text[0] == "[" else "lines"
    try:
        _, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        return "object" if is_cut(text, error) else "lines"
    except (RecursionError, ValueError):
        return "lines"
    following = text[end:].lstrip()
    if not following:
        return "object"
    return "objects" if following[0] == "{" else "lines"


def _is_value(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def is_cut(text: str, error: json.JSONDecodeError) -> bool:
    """Whether a text that can't be decoded is valid JSON up to its end, where it is cut."""
    return error.msg.startswith("Unterminated string") or len(text) - error.pos <= _LONGEST_TOKEN


def _rows_list(shape: ObjectShape, rows_key: str | None, address: str) -> ObjectList | None:
    """The list with the rows in an object; None where the object is a row itself."""
    if rows_key is None and not shape.texts.isdisjoint(INSTRUCTION_FIELDS):
        return None
    lists = [item for item in shape.lists if item.fields.isdisjoint(ROLE_KEYS)]
    if not lists and not shape.nested.isdisjoint(_COLUMNS):
        raise UsageError(
            f"'{address}' is one JSON object of columns: write it as rows, with pandas by "
            "to_json(..., orient='records', lines=True)"
        )
    if not lists or (rows_key is None and len(lists) == 1):
        return lists[0] if lists else None
    meant = [item for item in lists if item.key == rows_key]
    if not meant:
        keys = ", ".join(f"'{item.key}'" for item in lists)
        wrong = "" if rows_key is None else f"split='{rows_key}': "
        raise UsageError(
            f"{wrong}'{address}' is one JSON object with lists of objects in {keys}: name the one that holds the rows "
            "with --split"
        )
    return meant[0]
