"""Records in the store: a dataclass each, as a JSON object with a format number. One loader checks all of them."""

import json
from dataclasses import asdict
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from nuggets.errors import StoreError
from nuggets.store.store import Store


class Record(Protocol):
    """A dataclass of values that JSON has, nested dataclasses, tuples and enums."""

    FORMAT: ClassVar[int]  # raised when fields change their names or meaning
    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=Record)


def write_record(store: Store, path: str, record: Record) -> None:
    """Store a record; it replaces an earlier one at this path."""
    store.write(path, record_bytes(record))


def record_bytes(record: Record) -> bytes:
    """A record as it is stored: its format number and its fields."""
    content = {"format": record.FORMAT, **asdict(record)}
    return json.dumps(content, indent=1, ensure_ascii=False).encode()


def read_record(store: Store, path: str, kind: type[R]) -> R:
    """The record at a path. Raises FileNotFoundError if there is none.

    Raises StoreError for a damaged object, and for another format or fields than this version of nuggets writes.
    """
    content = store.read_json(path)
    if not isinstance(content, dict):
        raise _refused(store, path, kind, f"it is a JSON {type(content).__name__}, not an object")
    if content.get("format") != kind.FORMAT:
        stored = f"format {content['format']}" if "format" in content else "no format number"
        raise _refused(store, path, kind, f"it has {stored}, this version reads format {kind.FORMAT}")
    fields = {name: value for name, value in content.items() if name != "format"}
    try:
        # Through JSON, because only there a list is accepted for a tuple and a string for an enum, and nothing else.
        (record,) = _adapter(kind).validate_json(json.dumps([fields]), strict=True)
    except ValidationError as error:
        problems = ", ".join(_described(item) for item in error.errors(include_url=False))
        raise _refused(store, path, kind, problems) from error
    checked: R = record
    return checked


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    # In a list, because pydantic takes a configuration for a dataclass from its own attributes only.
    return TypeAdapter(list[kind], config=ConfigDict(extra="forbid"))  # type: ignore[valid-type]


def _described(problem: ErrorDetails) -> str:
    name = ".".join(str(part) for part in problem["loc"][1:])
    if problem["type"] == "missing":
        return f"no field {name}"
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown field {name}"
    return f"{name}={problem['input']!r:.60}: {problem['msg']}"


def _refused(store: Store, path: str, kind: type[Any], why: str) -> StoreError:
    return StoreError(
        f"{store.uri(path)} is not a {kind.__name__} that this version of nuggets reads ({why}): use the version that "
        "wrote it, or another store"
    )
