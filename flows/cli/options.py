"""Commands whose options are generated from the fields of a configuration dataclass."""

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
import yaml
from pydantic.fields import FieldInfo

from nuggets.config.configs import EXCLUSIVE
from nuggets.config.declaration import declared_fields
from nuggets.config.mapping import with_paths_from
from nuggets.errors import UsageError
from nuggets.store.user_address import Accepts, resolve_address


def with_options(
    config: type, *, argument: str, required: bool = True, extra: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a function of keyword arguments as a command with an option per field of `config`.

    The field named `argument` becomes the command's argument; `extra` options are added. Options that are not given are
    None, whatever their field's default, so that they don't override a file's.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        types = get_type_hints(config)
        parameters = [
            _argument(name, types[name], field, required=required)
            if name == argument
            else _option(name, types[name], field)
            for name, field in declared_fields(config).items()
        ]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None)
            for name, annotation in (extra or {}).items()
        ]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {item.name: item.annotation for item in parameters}
        return function

    return decorate


def read_options_file(address: str) -> dict[str, Any]:
    """The mapping in a YAML file, by names of fields; its relative paths are relative to the file.

    Raises UsageError naming file and line if it is none.
    """
    path = Path(os.path.abspath(resolve_address("config", address, Accepts.FILE)))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"config='{path}' can't be read: {reason}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"config='{path}' is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"config='{path}' holds {type(content).__name__}; it must hold 'field: value' lines")
    options: dict[str, Any] = {}
    for name, value in content.items():
        field_name = str(name).replace("-", "_")  # an option's spelling is accepted
        if field_name in options:
            raise UsageError(f"config='{path}' gives {field_name} twice, as {name} too: leave one of them out")
        options[field_name] = value
    try:
        return with_paths_from(str(path.parent), options)
    except UsageError as error:
        raise UsageError(f"config='{path}': {error}") from None


def overridden(file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values with those given on the command line in their place.

    An option also takes the place of those that exclude it: `--top-k 5` replaces the file's threshold.
    """
    replaced = {name for group in EXCLUSIVE for name in group if any(other in given for other in group)}
    return {name: value for name, value in file.items() if name not in replaced} | dict(given)


def _argument(name: str, kind: Any, field: FieldInfo, *, required: bool) -> inspect.Parameter:
    is_list = get_origin(kind) is tuple
    metavar = f"{name.upper()}..." if is_list else name.upper()
    marker = typer.Argument(help=field.description, metavar=metavar, show_default=False)
    default = inspect.Parameter.empty if required else None
    accepted = list[str] if is_list else kind
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[accepted | None, marker], default=default
    )


def _option(name: str, kind: Any, field: FieldInfo) -> inspect.Parameter:
    text = field.description or ""
    if field.default is not None:
        text += f" Default: {field.default}."
    choices = _choices(kind)
    # The configuration checks choices: its message names the field, the value, and what is allowed.
    accepted = str if choices else kind
    marker = typer.Option(
        f"--{name.replace('_', '-')}", help=text, show_default=False, metavar="|".join(choices) or None
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[accepted | None, marker], default=None
    )


def _choices(kind: Any) -> list[str]:
    """The allowed values of a Literal, or of a Literal that may be None."""
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    return [choice for literal in literals for choice in get_args(literal)]
