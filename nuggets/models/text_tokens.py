"""Token ids of texts: special tokens are recognised in the profile's own parts, and never in an example's texts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_PARTIAL = "\ufffd"  # what bytes of a letter are decoded to if the others are missing
_BYTES_OF_A_LETTER = 4


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    chat_template: Any

    def __call__(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> Any:
        """Token ids under the key `input_ids`; `split_special_tokens`: special tokens in the text are text."""
        ...

    def decode(self, token_ids: Any, *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> Any:
        """The text of token ids."""
        ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Per id, the token that is matched in a text before it is tokenised further, and whether it is special."""
        ...

    @property
    def all_special_ids(self) -> Sequence[int]:
        """The ids of the special tokens that have a role; not all of them are special among the added tokens."""
        ...

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        """The special tokens by role, such as `eos_token`."""
        ...

    def get_chat_template(self) -> str:
        """The template that is used where no other is named; raises ValueError if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class TextTokens:
    """Token ids of an example's text, and how many special tokens it spells out, which are tokenised as text."""

    ids: tuple[int, ...]
    special_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A tokenizer together with the ids that mark a prompt's structure, which no text of an example may produce."""

    tokenizer: Tokenizer
    structure: frozenset[int]

    def markup(self, text: str) -> tuple[int, ...]:
        """Ids of a text whose special tokens are recognised."""
        return plain_ids(self.tokenizer, text)

    def text(self, text: str) -> TextTokens:
        """Ids of a text whose special tokens are ordinary letters."""
        ids = self.markup(text)
        spelled = len(self.structure_of(ids))
        if not spelled:
            return TextTokens(ids)
        ids = _without_added_tokens(self.tokenizer, text)
        # Some tokenizers give their unknown token, which is special, for letters without a token: these stay.
        return TextTokens(ids, spelled - len(self.structure_of(ids)))

    def structure_of(self, ids: Iterable[int]) -> tuple[int, ...]:
        """The ids that mark structure, in their order."""
        return tuple(token for token in ids if token in self.structure)

    def decode(self, ids: Collection[int]) -> str:
        """The text of the ids as it is: with special tokens, and with the spaces that the tokens hold."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def without_partial_end(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids up to the last whole letter; a letter may consist of a token per byte."""
        cuts = (ids[: len(ids) - count] for count in range(_BYTES_OF_A_LETTER))
        return next((cut for cut in cuts if not self.decode(cut).endswith(_PARTIAL)), ids)

    def without_partial_start(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids from the first whole letter on."""
        cuts = (ids[count:] for count in range(_BYTES_OF_A_LETTER))
        return next((cut for cut in cuts if not self.decode(cut).startswith(_PARTIAL)), ids)


def text_tokenizer(tokenizer: Tokenizer, fixed: Iterable[str] = ()) -> TextTokenizer:
    """A tokenizer for texts among `fixed`, the texts that the profile itself writes.

    Structure are the special tokens and every added token that the profile writes. An added token that is neither,
    such as a run of spaces, is an ordinary part of a text.
    """
    written = "".join(fixed)
    structure = {
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content in written and not token.content.isspace())
    }
    return TextTokenizer(tokenizer, frozenset(structure.union(tokenizer.all_special_ids)))


def plain_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a text, without tokens that the tokenizer puts around it."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


def leading_special_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts in front of every text, such as BOS; not those behind it."""
    bare = plain_ids(tokenizer, "a")
    dressed = tuple(tokenizer("a", add_special_tokens=True)["input_ids"])
    for start in range(len(dressed) - len(bare) + 1):
        if dressed[start : start + len(bare)] == bare:
            return dressed[:start]
    return ()


def _without_added_tokens(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    # `split_special_tokens` would leave added tokens that are not special in the text, and would change the state of a
    # tokenizer that other threads use. These three calls change nothing.
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [text]
    if backend.pre_tokenizer is not None:
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return tuple(token.id for piece in pieces for token in backend.model.tokenize(piece))
