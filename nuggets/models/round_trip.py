"""Whether token ids, decoded, are the texts that they were made of. Pure."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Reproduction(IntEnum):
    """How decoded tokens differ from the text, the lesser difference first."""

    EXACT = 0
    ALTERED = 1  # in case, accents, compatibility characters, control characters or white space only
    FAILED = 2


@dataclass(frozen=True, slots=True)
class Decoded:
    """Decoded tokens, and the text that they were made of.

    `texts`: the example's texts within it, if it also holds fixed parts, which a tokenizer may decode with other
    spaces around special tokens.
    """

    decoded: str
    text: str
    texts: tuple[str, ...] = ()


def reproduction(pieces: Iterable[Decoded]) -> Reproduction:
    """The largest difference of some pieces."""
    return max(map(_of_piece, pieces), default=Reproduction.EXACT)


def _of_piece(piece: Decoded) -> Reproduction:
    # A tokenizer may put a space in front of every text, which is no part of the text.
    if piece.decoded.strip() == piece.text.strip() or _holds(piece.decoded, piece.texts):
        return Reproduction.EXACT
    decoded = _folded(piece.decoded)
    if decoded == _folded(piece.text) or _holds(decoded, [_folded(text) for text in piece.texts]):
        return Reproduction.ALTERED
    return Reproduction.FAILED


def _holds(decoded: str, texts: Sequence[str]) -> bool:
    """Whether the texts occur in this order, without overlap."""
    start = 0
    for text in texts:
        position = decoded.find(text, start)
        if position < 0:
            return False
        start = position + len(text)
    return bool(texts)


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    folded = "".join(
        letter for letter in decomposed if not letter.isspace() and unicodedata.category(letter)[0] not in "MC"
    )
    return folded or text  # a text of such letters only is not reproduced by nothing
