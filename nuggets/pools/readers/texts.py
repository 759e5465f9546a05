"""The text that a field holds, or why it holds none."""

import reprlib

from nuggets.examples import Reject, RejectReason
from nuggets.pools.readers.fields import is_missing

_EXCERPT_LENGTH = 80  # characters of a value in a detail, so that what is wanted fits behind it


def filled_text(field: str, value: object, missing: RejectReason) -> str | Reject:
    """The text of a field that has to hold one."""
    if is_missing(value):
        return Reject(missing, f"'{field}' is null" if value is None else f"'{field}' is NaN")
    if isinstance(value, list | dict) and not value:
        return Reject(missing, f"'{field}' is empty")
    text = any_text(field, value)
    if isinstance(text, str) and not text.strip():
        return Reject(missing, f"'{field}' is only whitespace" if text else f"'{field}' is empty")
    return text


def any_text(field: str, value: object) -> str | Reject:
    """The text of a field, which may be empty."""
    if isinstance(value, str):
        return value
    return Reject(RejectReason.NOT_TEXT, f"'{field}' is {described(value)}, wanted text")


def described(value: object) -> str:
    """The type of a value and the start of what it holds."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    excerpt = reprlib.repr(value).encode("ascii", "backslashreplace").decode()[:_EXCERPT_LENGTH]
    return f"{kinds.get(type(value), 'a value')} ({excerpt})"
