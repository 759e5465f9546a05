"""What a JSON object holds at its top level: the lists of objects in it, found without holding the object."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from nuggets.pools.readers.json_tokens import COMMA, OPENING, QUOTE, SPACE, TOKEN, whole_escapes

_OBJECT, _LIST = b"{["
_LONGEST_KEY = 1000  # bytes; a longer one is no name of a field


@dataclass(slots=True)
class ObjectList:
    """A list of objects: its key, the position of its bracket in the text, and the keys of its first object."""

    key: str
    start: int
    fields: set[str] = field(default_factory=set)


@dataclass(slots=True)
class ObjectShape:
    """The top level of an object. `following`: the first character after the object, empty where nothing follows."""

    texts: set[str] = field(default_factory=set)  # keys whose value is a text
    nested: set[str] = field(default_factory=set)  # keys whose value is a list or an object
    lists: list[ObjectList] = field(default_factory=list)
    following: bytes = b""


def object_shape(pieces: Iterable[bytes]) -> ObjectShape:
    """The shape of the object at the start of a text. An object that is cut off has what comes before the cut."""
    walk = _Walk()
    for piece in whole_escapes(pieces):
        rest = (piece if walk.is_over else walk.read(piece)).lstrip(SPACE)
        if walk.is_over and rest:
            walk.shape.following = rest[:1]
            break
    return walk.shape


class _Walk:
    """A walk over the marks of an object, which keeps only keys."""

    def __init__(self) -> None:
        self.shape = ObjectShape()
        self.is_over = False
        self._position = 0  # in the text, of the next piece
        self._open = bytearray()  # brackets that are open, outermost first
        self._key: bytes | None = None  # of the value that is read
        self._is_key_next = False
        self._text: bytes | None = None  # of a string that has not ended yet
        self._pending: ObjectList | None = None  # a list whose first element is not known yet

    def read(self, piece: bytes) -> bytes:
        """Walk over a piece; returns what follows the end of the object in it."""
        added = self._text is not None
        if added:
            piece = b'"' + piece  # as if the string began here
        for token in TOKEN.finditer(piece):
            mark = piece[token.start()]
            if mark == QUOTE:
                self._string(token[0], is_whole=bool(token[1]))
            elif mark in OPENING:
                self._opened(mark, self._position + token.start() - added)
            elif mark == COMMA:
                self._is_key_next = self._open.endswith(b"{")
                self._pending = None if len(self._open) == 2 else self._pending
            else:
                self._open.pop()
                self._is_key_next = False
                self._pending = None if len(self._open) < 2 else self._pending
                if not self._open:
                    self.is_over = True
                    return piece[token.end() :]
        self._position += len(piece) - added
        return b""

    def _string(self, text: bytes, *, is_whole: bool) -> None:
        begun = self._text is not None
        self._text = (self._text or b"") + text[begun:][:_LONGEST_KEY]
        if not is_whole:
            return
        whole, self._text = self._text, None
        depth = len(self._open)
        if self._is_key_next and depth in (1, 3):
            if depth == 1:
                self._key = whole
            elif self._pending is not None:
                self._pending.fields.add(_decoded(whole))
        elif depth == 1 and self._key is not None:
            self.shape.texts.add(_decoded(self._key))
        self._is_key_next = False

    def _opened(self, bracket: int, position: int) -> None:
        if len(self._open) == 1 and self._key is not None:
            self.shape.nested.add(_decoded(self._key))
        if bracket == _LIST and len(self._open) == 1 and self._key is not None:
            self._pending = ObjectList(_decoded(self._key), position)
        elif bracket == _OBJECT and len(self._open) == 2 and self._pending is not None:
            self.shape.lists.append(self._pending)
        self._open.append(bracket)
        self._is_key_next = bracket == _OBJECT


def _decoded(key: bytes) -> str:
    try:
        return str(json.loads(key.decode(errors="replace"), strict=False))
    except ValueError:
        return key.decode(errors="replace")
