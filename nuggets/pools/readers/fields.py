"""Which fields of a row hold an example's texts: those that the user names, or those with a usual name.

Alpaca's and Dolly's names come first. The other names, of TRL, Axolotl and many data sets, are used only where no
second field could be meant: a wrong column would be scored without a warning.
"""

from nuggets.examples import FieldNames, Reject, RejectReason

TURN_FIELDS = ("conversations", "messages")  # ShareGPT's name, OpenAI's name
_INSTRUCTION_FIELDS = ("instruction", "prompt", "question", "query")
_INPUT_FIELDS = ("input", "context")  # Alpaca's name, Dolly's name
_OUTPUT_FIELDS = ("output", "response", "completion", "answer")
_OWN_OUTPUT_FIELDS = ("output", "response")  # beside 'instruction': Alpaca's name, Dolly's name
_SHOWN_FIELDS = 8


def is_missing(value: object) -> bool:
    """Whether a field's value counts as missing."""
    return value is None or (isinstance(value, float) and value != value)  # NaN is how pandas writes a missing text


def first_present(row: dict[str, object], names: tuple[str, ...]) -> str:
    """The first of these fields whose value is not missing; the first one if all are."""
    return next((name for name in names if not is_missing(row.get(name))), names[0])


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def instruction_field(row: dict[str, object], names: FieldNames) -> str | Reject:
    """The field with the instruction, or why there is none."""
    if names.instruction is None and not is_missing(row.get("instruction")) and not names.uses("instruction"):
        return "instruction"
    fields = _free(_INSTRUCTION_FIELDS, names) if names.instruction is None else (names.instruction,)
    wanted = fields if names.any_given else (*fields, *TURN_FIELDS)
    return _only(row, fields, wanted, reason=RejectReason.MISSING_INSTRUCTION, option="--instruction-field")


def input_field(row: dict[str, object], names: FieldNames) -> str | None:
    """The field with the input, the first one that is not empty; None where the row has none."""
    if names.input is not None:
        return names.input
    fields = _free(_INPUT_FIELDS, names)
    filled = (field for field in fields if not is_missing(row.get(field)) and not _is_blank(row[field]))
    present = (field for field in fields if not is_missing(row.get(field)))
    return next(filled, None) or next(present, None)


def output_field(row: dict[str, object], names: FieldNames, *, beside: str) -> str | Reject:
    """The field with the output of a row whose instruction is in `beside`, or why there is none."""
    fields = _free(_OUTPUT_FIELDS, names) if names.output is None else (names.output,)
    if names.output is None and beside == "instruction":
        own = first_present(row, _OWN_OUTPUT_FIELDS)
        if own in fields and not is_missing(row.get(own)):
            return own
    return _only(row, fields, fields, reason=RejectReason.MISSING_OUTPUT, option="--output-field")


def _free(fields: tuple[str, ...], names: FieldNames) -> tuple[str, ...]:
    return tuple(field for field in fields if not names.uses(field))


def _only(
    row: dict[str, object], fields: tuple[str, ...], wanted: tuple[str, ...], *, reason: RejectReason, option: str
) -> str | Reject:
    filled = [field for field in fields if not is_missing(row.get(field))]
    if len(filled) > 1:
        return Reject(reason, f"{_listed(filled, 'and')} could each be meant: name one with {option}")
    present = filled or [field for field in fields if field in row]
    if present:
        return present[0]
    has = ", ".join(map(ascii, list(row)[:_SHOWN_FIELDS])) or "none"
    return Reject(reason, f"no {_listed(wanted, 'or')}; the row's fields: {has}")


def _listed(fields: tuple[str, ...] | list[str], word: str) -> str:
    *first, last = map(ascii, fields)
    return f"{', '.join(first)} {word} {last}" if first else last
