"""Which fields of a row hold an example's texts: those that the user names, or those with a usual name.

Alpaca's and Dolly's names come first. The other names, of TRL, Axolotl and many data sets, are used only where no
second field could be meant: a wrong column would be scored without a warning. An empty field is none where another one
is filled: joined data sets have the columns of each, and leave most of them empty.
"""

from nuggets.examples import FieldNames, Reject, RejectReason

TURN_FIELDS = ("conversations", "messages")  # ShareGPT's name, OpenAI's name
ROLE_KEYS = ("from", "role")  # of a turn: ShareGPT's name, OpenAI's name
INSTRUCTION_FIELDS = ("instruction", "prompt", "question", "query")
_INPUT_FIELDS = ("input", "context")  # Alpaca's name, Dolly's name
_OUTPUT_FIELDS = ("output", "response", "completion", "answer")
_OWN_OUTPUT_FIELDS = ("output", "response")  # beside 'instruction': Alpaca's name, Dolly's name
_SHOWN_FIELDS = 8


def is_missing(value: object) -> bool:
    """Whether a field's value counts as missing."""
    return value is None or (isinstance(value, float) and value != value)  # NaN is how pandas writes a missing text


def is_empty(value: object) -> bool:
    """Whether a field holds nothing: it is missing, blank, or an empty list or object."""
    return is_missing(value) or (isinstance(value, str | list | dict) and not value) or is_blank(value)


def is_blank(value: object) -> bool:
    """Whether a value is a text of white space only."""
    return isinstance(value, str) and not value.strip()


def first_filled(row: dict[str, object], names: tuple[str, ...]) -> str | None:
    """The first of these fields that is not empty; if all are, the first that the row has; None if it has none."""
    filled = (name for name in names if not is_empty(row.get(name)))
    return next(filled, None) or next((name for name in names if name in row), None)


def holds_exchange(row: dict[str, object]) -> bool:
    """Whether the row has an instruction by Alpaca's name, and an output."""
    return not is_empty(row.get("instruction")) and any(not is_empty(row.get(name)) for name in _OUTPUT_FIELDS)


def instruction_field(row: dict[str, object], names: FieldNames) -> str | Reject:
    """The field with the instruction, or why there is none."""
    if names.instruction is None and not is_empty(row.get("instruction")) and not names.uses("instruction"):
        return "instruction"
    fields = _free(INSTRUCTION_FIELDS, names) if names.instruction is None else (names.instruction,)
    wanted = fields if names.any_given else (*fields, *TURN_FIELDS)
    return _only(row, fields, wanted, option="--instruction-field")


def input_field(row: dict[str, object], names: FieldNames) -> str | None:
    """The field with the input, the first one that is not empty; None where the row has none."""
    if names.input is not None:
        return names.input
    fields = _free(_INPUT_FIELDS, names)
    filled = (field for field in fields if not is_empty(row.get(field)))
    present = (field for field in fields if not is_missing(row.get(field)))
    return next(filled, None) or next(present, None)


def output_field(row: dict[str, object], names: FieldNames, *, beside: str) -> str | Reject:
    """The field with the output of a row whose instruction is in `beside`, or why there is none."""
    fields = _free(_OUTPUT_FIELDS, names) if names.output is None else (names.output,)
    if names.output is None and beside == "instruction":
        own = next((name for name in _OWN_OUTPUT_FIELDS if name in fields and not is_empty(row.get(name))), None)
        if own is not None:
            return own
    return _only(row, fields, fields, option="--output-field")


def shown_fields(row: dict[str, object]) -> str:
    """The names of the row's first fields, for messages."""
    return ", ".join(map(ascii, list(row)[:_SHOWN_FIELDS])) or "none"


def _free(fields: tuple[str, ...], names: FieldNames) -> tuple[str, ...]:
    return tuple(field for field in fields if not names.uses(field))


def _only(row: dict[str, object], fields: tuple[str, ...], wanted: tuple[str, ...], *, option: str) -> str | Reject:
    filled = [field for field in fields if not is_empty(row.get(field))]
    if len(filled) > 1:
        detail = f"{_listed(filled, 'and')} could each be meant: name one with {option}"
        return Reject(RejectReason.UNKNOWN_FIELDS, detail)
    present = filled or [field for field in wanted if field in row]
    if present:
        return present[0]
    detail = f"no {_listed(wanted, 'or')}; the row's fields: {shown_fields(row)}"
    return Reject(RejectReason.UNKNOWN_FIELDS, detail)


def _listed(fields: tuple[str, ...] | list[str], word: str) -> str:
    *first, last = map(ascii, fields)
    return f"{', '.join(first)} {word} {last}" if first else last
