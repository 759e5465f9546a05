"""The first exchange of a conversation: a user turn that an assistant turn follows directly."""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass

from nuggets.examples import Example, Reject, RejectReason
from nuggets.pools.readers.fields import ROLE_KEYS, first_filled, is_empty, shown_fields
from nuggets.pools.readers.texts import described, filled_text

USER_ROLES = frozenset({"user", "human"})
ASSISTANT_ROLES = frozenset({"assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai", "claude"})
SYSTEM_ROLES = frozenset({"system", "developer"})
_TEXT_KEYS = ("value", "content", "text")
_TOOL_KEYS = ("tool_calls", "function_call")
_EXCHANGE_TURNS = 2
_SHOWN_ROLES = 8


@dataclass(frozen=True, slots=True)
class Exchange:
    """An example, and what its row holds beside it."""

    example: Example
    dropped_turns: int = 0
    system_messages: int = 0
    dropped_instances: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn with its place in the row, such as `messages[1]`, and its role in lower case; empty if it has none."""

    place: str
    role: str
    value: object


def first_exchange(fields: dict[str, object]) -> Exchange | Reject:
    """The first exchange of the turns in these fields, one after the other, or why there is none.

    Turns are objects with a role and a text, or texts: those of user and assistant in turn. A field may hold them as
    JSON text, as tables do.
    """
    turns: list[Turn] = []
    for field, value in fields.items():
        of_field = _turns(field, value)
        if isinstance(of_field, Reject):
            return of_field
        turns += of_field
    for first, second in zip(turns, turns[1:], strict=False):
        if first.role in USER_ROLES and second.role in ASSISTANT_ROLES:
            return _exchange(first, second, turns)
    return Reject(RejectReason.NO_EXCHANGE, _fault(turns, list(fields)))


def _exchange(user: Turn, assistant: Turn, turns: Sequence[Turn]) -> Exchange | Reject:
    instruction = _text(user, RejectReason.MISSING_INSTRUCTION)
    if isinstance(instruction, Reject):
        return instruction
    output = _text(assistant, RejectReason.MISSING_OUTPUT)
    if isinstance(output, Reject):
        return output
    system = sum(turn.role in SYSTEM_ROLES for turn in turns)
    return Exchange(Example(instruction, "", output), len(turns) - system - _EXCHANGE_TURNS, system)


def _turns(field: str, value: object) -> list[Turn] | Reject:
    if isinstance(value, str):
        value = _from_text(value)
    if not isinstance(value, list):
        return Reject(RejectReason.NO_EXCHANGE, f"'{field}' is {described(value)}, wanted a list of turns")
    if value and all(isinstance(item, str) for item in value):
        roles = ("user", "assistant")
        return [Turn(f"{field}[{number}]", roles[number % 2], item) for number, item in enumerate(value)]
    return [Turn(f"{field}[{number}]", _role(item), item) for number, item in enumerate(value)]


def _from_text(text: str) -> object:
    """The list that a cell of a table holds as JSON or, as pandas writes it, in Python's notation; else the text."""
    if not text.lstrip().startswith("["):
        return text
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _role(turn: object) -> str:
    role = next((turn[key] for key in ROLE_KEYS if turn.get(key)), None) if isinstance(turn, dict) else None
    return role.strip().lower() if isinstance(role, str) else ""


def _fault(turns: Sequence[Turn], fields: Sequence[str]) -> str:
    if len(turns) == 1 and isinstance(turns[0].value, str):
        return f"'{fields[0]}' has one text, the user's, and no answer to it"
    for turn in turns:
        if not isinstance(turn.value, dict):
            return f"'{turn.place}' is {described(turn.value)}, wanted an object with a role and a text"
        if not turn.role:
            keys = shown_fields(turn.value)
            return f"'{turn.place}' has no role in 'from' or 'role'; its fields: {keys}"
    roles = ", ".join(ascii(turn.role) for turn in turns[:_SHOWN_ROLES]) or "none"
    has_user = not USER_ROLES.isdisjoint(turn.role for turn in turns)
    directly = " directly followed by an assistant turn" if has_user else ""
    have = " and ".join(f"'{field}'" for field in fields) + (" has" if len(fields) == 1 else " have")
    return f"{have} no user turn{directly}; its roles: {roles}"


def _text(turn: Turn, missing: RejectReason) -> str | Reject:
    if isinstance(turn.value, str):
        return filled_text(turn.place, turn.value, missing)
    row: dict[str, object] = turn.value if isinstance(turn.value, dict) else {}
    key = first_filled(row, _TEXT_KEYS)
    if key is None or is_empty(row[key]):
        for tool in _TOOL_KEYS:
            if not is_empty(row.get(tool)):
                return Reject(RejectReason.TOOL_CALL, f"'{turn.place}' has '{tool}' and no text")
    if key is None:
        return Reject(missing, f"'{turn.place}' has no text in 'value' or 'content'; its fields: {shown_fields(row)}")
    content = row[key]
    return filled_text(f"{turn.place}.{key}", _joined_parts(content) if isinstance(content, list) else content, missing)


def _joined_parts(parts: list[object]) -> object:
    """The text of a message given in parts; the first part that isn't text, if there is one."""
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            return [part]
        texts.append(text)
    return "".join(texts)
