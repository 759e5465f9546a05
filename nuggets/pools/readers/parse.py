"""From a decoded row to its example: the texts in its fields, or the first exchange of a conversation."""

import re

from nuggets.examples import DETAIL_LENGTH, RECOGNISED, Example, FieldNames, PoolRow, Reject, RejectReason
from nuggets.pools.readers.conversation import Exchange, first_exchange
from nuggets.pools.readers.fields import (
    TURN_FIELDS,
    holds_exchange,
    input_field,
    instruction_field,
    is_empty,
    is_missing,
    output_field,
)
from nuggets.pools.readers.texts import any_text, described, filled_text

_SYSTEM_FIELDS = ("system", "system_prompt")  # beside an instruction or turns: LLaMA-Factory's name, OpenOrca's name
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_row(value: object, names: FieldNames = RECOGNISED) -> PoolRow | Reject:
    """The example that a decoded row holds, its texts exactly as they are, or why it holds none."""
    if not isinstance(value, dict):
        return Reject(RejectReason.NOT_AN_OBJECT, f"the row is {described(value)}, wanted an object with fields")
    parsed = _surrogate_reject(value) or _exchange(value, names)
    if isinstance(parsed, Reject):
        return Reject(parsed.reason, parsed.detail[:DETAIL_LENGTH])
    system = parsed.system_messages + _system_fields(value, names)
    return PoolRow(parsed.example, value, parsed.dropped_turns, system, parsed.dropped_instances)


def _exchange(row: dict[str, object], names: FieldNames) -> Exchange | Reject:
    if names.any_given or holds_exchange(row):
        return _of_fields(row, names)
    for field in TURN_FIELDS:
        if not is_empty(row.get(field)):
            return first_exchange({field: row[field]})
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list) and prompt:  # TRL's conversations
        return first_exchange({"prompt": prompt, "completion": completion})
    instances = row.get("instances")
    if isinstance(instances, list) and instances and not is_empty(row.get("instruction")):
        return _of_instances(row, instances)
    return _of_fields(row, names)


def _of_fields(row: dict[str, object], names: FieldNames) -> Exchange | Reject:
    asked = instruction_field(row, names)
    if isinstance(asked, Reject):
        return asked
    instruction = filled_text(asked, row.get(asked), RejectReason.MISSING_INSTRUCTION)
    given = input_field(row, names)
    context = "" if given is None or is_missing(row.get(given)) else any_text(given, row[given])
    answered = output_field(row, names, beside=asked)
    if isinstance(answered, Reject):
        output: str | Reject = answered
    else:
        output = filled_text(answered, row.get(answered), RejectReason.MISSING_OUTPUT)
    return _example(instruction, context, output)


def _of_instances(row: dict[str, object], instances: list[object]) -> Exchange | Reject:
    """The instruction with its first instance, as self-instruct writes them; a row of the pool is one example."""
    first = instances[0]
    if not isinstance(first, dict) or "output" not in first:
        detail = f"'instances[0]' is {described(first)}, wanted an object with 'input' and 'output'"
        return Reject(RejectReason.MISSING_OUTPUT, detail)
    given = first.get("input")
    parsed = _example(
        filled_text("instruction", row["instruction"], RejectReason.MISSING_INSTRUCTION),
        "" if is_missing(given) else any_text("instances[0].input", given),
        filled_text("instances[0].output", first["output"], RejectReason.MISSING_OUTPUT),
    )
    return parsed if isinstance(parsed, Reject) else Exchange(parsed.example, dropped_instances=len(instances) - 1)


def _example(instruction: str | Reject, context: str | Reject, output: str | Reject) -> Exchange | Reject:
    if isinstance(instruction, Reject):
        return instruction
    if isinstance(context, Reject):
        return context
    if isinstance(output, Reject):
        return output
    return Exchange(Example(instruction, context, output))


def _system_fields(row: dict[str, object], names: FieldNames) -> int:
    texts = (row.get(field) for field in _SYSTEM_FIELDS if not names.uses(field))
    return sum(isinstance(text, str) and bool(text.strip()) for text in texts)


def _surrogate_reject(row: dict[str, object]) -> Reject | None:
    # All fields are checked, because a selection is published with its original rows, and UTF-8 has no surrogates.
    for field, value in row.items():
        pending: list[object] = [field, value]
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                if not item.isascii() and _SURROGATE.search(item):
                    detail = f"{ascii(field)} holds half of a surrogate pair, which is not a character"
                    return Reject(RejectReason.UNDECODABLE, detail)
            elif isinstance(item, list):
                pending.extend(item)
            elif isinstance(item, dict):
                pending.extend(item)
                pending.extend(item.values())
    return None
