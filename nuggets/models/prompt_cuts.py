"""How much of each text stays where a prompt and its response exceed the token limit. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextLengths:
    """Tokens of an example's texts."""

    instruction: int
    input: int
    response: int


def kept_lengths(texts: TextLengths, *, room: int, mark: int) -> TextLengths:
    """How many tokens of each text fit `room` tokens: the input is cut first, then the instruction, last the response.

    A text of the prompt that is cut has a mark of `mark` tokens in its gap, and is never shorter than the mark, so
    the response is cut only if it does not fit beside the marks.
    """
    kept_input = _kept(texts.input, room - texts.response - texts.instruction, mark)
    room_beside_input = room - _size(kept_input, texts.input, mark)
    kept_instruction = _kept(texts.instruction, room_beside_input - texts.response, mark)
    room_for_response = room_beside_input - _size(kept_instruction, texts.instruction, mark)
    return TextLengths(kept_instruction, kept_input, min(texts.response, max(0, room_for_response)))


def cut_ends(ids: tuple[int, ...], kept: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first and the last of the ids, `kept` together."""
    tail = kept // 2
    return ids[: kept - tail], ids[len(ids) - tail :]


def _kept(length: int, room: int, mark: int) -> int:
    if length <= max(room, mark):  # a mark in place of a text that is no longer would save nothing
        return length
    return max(0, room - mark)


def _size(kept: int, length: int, mark: int) -> int:
    return length if kept == length else kept + mark
