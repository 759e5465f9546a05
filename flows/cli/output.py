"""What a command prints: its result on standard output, as lines or as one JSON object; all else on standard error."""

import json
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuggets.errors import UsageError
from nuggets.store.user_address import Accepts, resolve_address

if TYPE_CHECKING:
    from nuggets.steps.table_file import TableStream

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON; other lines go to standard error.", metavar="")
]
_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def show_result(facts: Any, text: str, *, as_json: bool) -> None:
    """Print a result: its text, or its facts as JSON."""
    with closed_pipe_ends_command():
        typer.echo(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else text)


def show_exported(facts: Mapping[str, Any], text: str, *, out: str, as_json: bool) -> None:
    """Print what was exported to `out`: as text on standard error, if the table itself is on standard output."""
    if out in _STDOUT:
        typer.echo(text, err=True)
    else:
        show_result({**facts, "out": out}, text, as_json=as_json)


def described_out(out: str) -> str:
    """Where a table was written, for messages."""
    return "on standard output" if out in _STDOUT else f"in {out}"


@contextmanager
def opened_out(out: str, *, as_json: bool) -> "Iterator[Path | TableStream]":
    """Where an export goes: a file to replace, or standard output or another pipe, as CSV or with `as_json` JSON lines.

    Raises UsageError for an address that is no path.
    """
    from nuggets.steps.table_file import STREAMED, TableStream

    extension = ".jsonl" if as_json else ".csv"
    if out in _STDOUT:
        with closed_pipe_ends_command():
            yield TableStream(sys.stdout.buffer, extension)
            sys.stdout.buffer.flush()
        return
    path = Path(resolve_address("out", out, Accepts.FILE))
    if not _is_stream(path):
        yield path
        return
    named = path.suffix.lower()
    if named and named not in STREAMED:
        raise UsageError(f"out='{out}' is a pipe, and {named} needs a file: allowed are {', '.join(STREAMED)}")
    with closed_pipe_ends_command(), path.open("wb") as stream:
        yield TableStream(stream, named or extension)


@contextmanager
def closed_pipe_ends_command() -> Iterator[None]:
    """End the command with exit code 141, that of SIGPIPE, where the reader of its output has gone, as in `| head`."""
    try:
        yield
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # Python flushes standard output once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _is_stream(path: Path) -> bool:
    with suppress(OSError):
        mode = path.stat().st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False
