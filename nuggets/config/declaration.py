"""How a configuration is declared: a pydantic dataclass whose fields carry their types, bounds and descriptions.

The command line's options, YAML files and the forms of flows all follow from these fields. A value is refused by a
UsageError that names the field, the value, and what is allowed.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from itertools import combinations
from typing import Any, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nuggets.checks import out_of_range
from nuggets.errors import UsageError

_Config = TypeVar("_Config")
_TYPES = {"int_type": "int", "float_type": "float", "string_type": "str", "tuple_type": "str or list"}
_BOUNDS = ("ge", "gt", "le", "lt")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configuration(
    *, exclusive: Iterable[tuple[str, ...]] = (), needed: tuple[str, ...] = ()
) -> Callable[[type[_Config]], type[_Config]]:
    """Declare a class as a configuration: frozen, keyword-only, its values and field names checked.

    `exclusive`: groups of fields of which a form accepts at most one each. `needed`: a form needs exactly one of these.
    """
    schema: Any = {"not": _refused(list(exclusive), needed)}
    settings = ConfigDict(extra="forbid", json_schema_extra=schema)

    def declare(cls: type[_Config]) -> type[_Config]:
        declared: Any = dataclass(frozen=True, slots=True, kw_only=True, config=settings)(cls)
        validate = declared.__init__

        @wraps(validate)
        def __init__(self: _Config, **values: Any) -> None:
            try:
                validate(self, **values)
            except ValidationError as error:
                raise UsageError("; ".join(_explained(item, declared) for item in error.errors())) from None

        declared.__init__ = __init__
        return declared  # type: ignore[no-any-return]

    return declare


def declared_fields(config: type) -> dict[str, FieldInfo]:
    """The fields of a configuration in order, with descriptions, bounds and defaults."""
    fields: dict[str, FieldInfo] = config.__pydantic_fields__  # type: ignore[attr-defined]
    return fields


def _explained(error: ErrorDetails, config: type) -> str:
    """A validation error in words: field, value, what is allowed."""
    if error["type"] == "value_error":  # raised by a check of ours
        return str(error["ctx"]["error"])
    name, value = str(error["loc"][0]), error["input"]
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "unexpected_keyword_argument":
        return f"unknown field {name}. Known fields: {', '.join(declared_fields(config))}"
    if error["type"] in _TYPES:
        return f"{name}={value!r} is {type(value).__name__}; it has to be {_TYPES[error['type']]}"
    if error["type"] == "literal_error":
        hint = get_type_hints(config)[name]
        choices = [choice for part in (hint, *get_args(hint)) for choice in get_args(part) if isinstance(choice, str)]
        return f"{name}={value!r} is not known; allowed: {', '.join(choices)}"
    metadata = declared_fields(config)[name].metadata
    bounds = {bound: getattr(item, bound) for item in metadata for bound in _BOUNDS if hasattr(item, bound)}
    return out_of_range(name, value, **bounds) if bounds else f"{name}={value!r}: {error['msg']}"


def _refused(exclusive: list[tuple[str, ...]], needed: tuple[str, ...]) -> dict[str, Any]:
    """JSON schema of what a form refuses: two of a group at once, none of `needed`."""
    words = [f"give {'exactly' if group == needed else 'at most'} one of {', '.join(group)}" for group in exclusive]
    given, left_out = {"not": {"type": "null"}}, {"type": "null"}
    pairs = [pair for group in exclusive for pair in combinations(group, 2)]
    refused: list[dict[str, Any]] = [{"required": [*pair], "properties": dict.fromkeys(pair, given)} for pair in pairs]
    if needed:
        refused.append({"properties": dict.fromkeys(needed, left_out)})
    # A form shows the whole schema when it is violated, so the description comes first.
    return {"$comment": "; ".join(words), "anyOf": refused}
