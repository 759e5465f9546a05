"""An instruction example, its id, and what a row of a pool is: an example or a reject."""

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum

EXAMPLE_ID_LENGTH = 32  # hex digits: 128 bits make a collision improbable even among billions of examples


class RejectReason(StrEnum):
    """Why a row of a pool is not used. Reports and rejects.jsonl use no other values."""

    NOT_AN_OBJECT = "not_an_object"
    UNDECODABLE = "undecodable"
    UNKNOWN_FIELDS = "unknown_fields"  # no field has a usual name, or several could be meant
    MISSING_INSTRUCTION = "missing_instruction"
    MISSING_OUTPUT = "missing_output"
    NO_EXCHANGE = "no_exchange"  # a conversation without a user turn that an assistant turn follows directly
    TOOL_CALL = "tool_call"  # the assistant calls a tool, and its turn has no text
    NOT_TEXT = "not_text"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction example; `input` may be empty, the other two may not."""

    instruction: str
    input: str
    output: str

    @property
    def stripped(self) -> "Example":
        """The texts without white space around them: all that ids, prompts and embeddings depend on."""
        return Example(self.instruction.strip(), self.input.strip(), self.output.strip())


@dataclass(frozen=True, slots=True)
class FieldNames:
    """Which fields of a pool's rows hold an example's texts; None for a field that is recognised by its name."""

    instruction: str | None = None
    input: str | None = None
    output: str | None = None

    @property
    def any_given(self) -> bool:
        """Whether rows are read by named fields, and not as conversations."""
        return self != RECOGNISED

    @property
    def identity(self) -> dict[str, dict[str, str]]:
        """Field names as part of the content hash of a pool; empty for the defaults."""
        named = {"instruction": self.instruction, "input": self.input, "output": self.output}
        given = {text: field for text, field in named.items() if field is not None}
        return {"fields": given} if given else {}

    def uses(self, field: str) -> bool:
        """Whether the user named this field for one of the texts, so that it is used for nothing else."""
        return field in (self.instruction, self.input, self.output)


RECOGNISED = FieldNames()


def example_id(example: Example) -> str:
    """Hash of an example's three stripped texts: independent of its pool and row, and of white space around a text.

    Prompts strip the texts too. An id of the raw texts would score "Paris." and "Paris.\\n" twice and keep both.
    """
    texts = example.stripped
    content = json.dumps([texts.instruction, texts.input, texts.output], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:EXAMPLE_ID_LENGTH]


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A usable row of a pool: its example, and the row as it is in the source."""

    example: Example
    original: dict[str, object]
    dropped_turns: int = 0  # turns of a conversation beyond its first user/assistant exchange
    system_messages: int = 0  # not used: no prompt profile has a place for them
    dropped_instances: int = 0  # inputs and outputs of an instruction beyond its first


@dataclass(frozen=True, slots=True)
class Reject:
    """A row of a pool that can't be used: the reason, and what the row holds instead."""

    reason: RejectReason
    detail: str


@dataclass(frozen=True, slots=True)
class Position:
    """Where a row is in its pool: its 0-based number, and in a format that has lines the 1-based line it begins in.

    `file`: the name of its file in a pool of several. Blank lines are no rows. Only the number is compared: the same
    row of another format is at the same position.
    """

    row: int
    line: int | None = field(default=None, compare=False)
    file: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        line = None if self.line is None else f"line {self.line}"
        inside = " of ".join(part for part in (line, self.file) if part)
        return f"row {self.row} ({inside})" if inside else f"row {self.row}"


DETAIL_LENGTH = 200  # characters: a line in a report, not the row itself, which may be megabytes


def undecodable(detail: str) -> Reject:
    """A row whose bytes are not what their format promises."""
    return Reject(RejectReason.UNDECODABLE, detail[:DETAIL_LENGTH])


def row_too_large(max_row_bytes: int) -> Reject:
    """A row that is larger than allowed; how much larger is not known, because reading stops at the limit."""
    return Reject(RejectReason.TOO_LARGE, f"the row has more than max_row_bytes={max_row_bytes} bytes")
