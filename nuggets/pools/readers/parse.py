"""From a decoded row to its example: the texts in its fields, or the first exchange of a conversation."""

import re
import reprlib

from nuggets.examples import DETAIL_LENGTH, RECOGNISED, Example, FieldNames, PoolRow, Reject, RejectReason
from nuggets.pools.readers.fields import (
    TURN_FIELDS,
    first_present,
    input_field,
    instruction_field,
    is_missing,
    output_field,
)

USER_ROLES = frozenset({"user", "human"})
ASSISTANT_ROLES = frozenset({"assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai", "claude"})
SYSTEM_ROLES = frozenset({"system", "developer"})
_SYSTEM_FIELDS = ("system", "system_prompt")  # beside an instruction or turns: LLaMA-Factory's name, OpenOrca's name
_EXCHANGE_TURNS = 2
_EXCERPT_LENGTH = 80  # characters of a value in a detail, so that what is wanted fits behind it
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_row(value: object, names: FieldNames = RECOGNISED) -> PoolRow | Reject:
    """The example that a decoded row holds, its texts exactly as they are, or why it holds none."""
    if not isinstance(value, dict):
        return Reject(RejectReason.NOT_AN_OBJECT, f"the row is {_described(value)}, wanted an object with fields")
    parsed = _surrogate_reject(value) or _parse_fields(value, names)
    if isinstance(parsed, Reject):
        return Reject(parsed.reason, parsed.detail[:DETAIL_LENGTH])
    example, roles = parsed
    system = sum(role in SYSTEM_ROLES for role in roles)
    dropped_turns = len(roles) - system - _EXCHANGE_TURNS if roles else 0
    return PoolRow(example, value, dropped_turns, system + _system_fields(value, names))


def _parse_fields(row: dict[str, object], names: FieldNames) -> tuple[Example, list[str]] | Reject:
    if not names.any_given and is_missing(row.get("instruction")):
        for field in TURN_FIELDS:
            turns = row.get(field)
            if not is_missing(turns):
                return _first_exchange(field, turns)
        prompt, completion = row.get("prompt"), row.get("completion")
        if isinstance(prompt, list) and isinstance(completion, list):  # TRL's conversations
            return _first_exchange("prompt + completion", [*prompt, *completion])
    asked = instruction_field(row, names)
    if isinstance(asked, Reject):
        return asked
    instruction = _text(asked, row.get(asked), RejectReason.MISSING_INSTRUCTION)
    given = input_field(row, names)
    context = "" if given is None or is_missing(row.get(given)) else _any_text(given, row[given])
    answered = output_field(row, names, beside=asked)
    if isinstance(answered, Reject):
        output: str | Reject = answered
    else:
        output = _text(answered, row.get(answered), RejectReason.MISSING_OUTPUT)
    return _example(instruction, context, output, roles=[])


def _first_exchange(field: str, turns: object) -> tuple[Example, list[str]] | Reject:
    if not isinstance(turns, list):
        detail = f"'{field}' is {_described(turns)}, wanted a list of turns"
        return Reject(RejectReason.MISSING_INSTRUCTION, detail)
    roles = [_role(turn) for turn in turns]
    for i in range(len(roles) - 1):
        if roles[i] in USER_ROLES and roles[i + 1] in ASSISTANT_ROLES:
            instruction = _turn_text(f"{field}[{i}]", turns[i], RejectReason.MISSING_INSTRUCTION)
            output = _turn_text(f"{field}[{i + 1}]", turns[i + 1], RejectReason.MISSING_OUTPUT)
            return _example(instruction, "", output, roles=roles)
    roles_of_row = f"its roles: {', '.join(map(ascii, roles[:8])) or 'none'}"
    if USER_ROLES.isdisjoint(roles):
        return Reject(RejectReason.MISSING_INSTRUCTION, f"'{field}' has no user turn; {roles_of_row}")
    detail = f"'{field}' has no user turn directly followed by an assistant turn; {roles_of_row}"
    return Reject(RejectReason.MISSING_OUTPUT, detail)


def _example(
    instruction: str | Reject, context: str | Reject, output: str | Reject, *, roles: list[str]
) -> tuple[Example, list[str]] | Reject:
    if isinstance(instruction, Reject):
        return instruction
    if isinstance(context, Reject):
        return context
    if isinstance(output, Reject):
        return output
    return Example(instruction, context, output), roles


def _system_fields(row: dict[str, object], names: FieldNames) -> int:
    texts = (row.get(field) for field in _SYSTEM_FIELDS if not names.uses(field))
    return sum(isinstance(text, str) and bool(text.strip()) for text in texts)


def _role(turn: object) -> str:
    role = turn.get("from") or turn.get("role") if isinstance(turn, dict) else None
    return role.strip().lower() if isinstance(role, str) else ""


def _turn_text(field: str, turn: dict[str, object], missing: RejectReason) -> str | Reject:
    name = first_present(turn, ("value", "content"))
    content = turn.get(name)
    return _text(f"{field}.{name}", _joined_parts(content) if isinstance(content, list) else content, missing)


def _joined_parts(parts: list[object]) -> object:
    """The text of a message given in parts; the first part that isn't text, if there is one."""
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            return [part]
        texts.append(text)
    return "".join(texts)


def _text(field: str, value: object, missing: RejectReason) -> str | Reject:
    if is_missing(value):
        return Reject(missing, f"'{field}' is missing" if value is None else f"'{field}' is NaN")
    text = _any_text(field, value)
    if isinstance(text, str) and not text.strip():
        return Reject(missing, f"'{field}' is only whitespace" if text else f"'{field}' is empty")
    return text


def _any_text(field: str, value: object) -> str | Reject:
    if isinstance(value, str):
        return value
    return Reject(RejectReason.NOT_TEXT, f"'{field}' is {_described(value)}, wanted text")


def _described(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    excerpt = reprlib.repr(value).encode("ascii", "backslashreplace").decode()[:_EXCERPT_LENGTH]
    return f"{kinds.get(type(value), 'a value')} ({excerpt})"


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
