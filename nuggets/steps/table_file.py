"""A table as a file for other programs: Parquet, CSV or JSON lines, by the ending of the file's name; or on a pipe."""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from nuggets.errors import StoreError, UsageError
from nuggets.store.parquet import save_tables

EXTENSIONS = (".parquet", ".csv", ".jsonl")
STREAMED = (".csv", ".jsonl")  # formats that a pipe can carry
ROWS_AT_ONCE = 1 << 15


@dataclass(frozen=True, slots=True)
class TableStream:
    """An open stream for a table, such as a pipe, and its format, one of STREAMED. Nothing is replaced."""

    stream: BinaryIO
    extension: str


def table_extension(out: Path | TableStream) -> str:
    """The format of a table, one of EXTENSIONS. Raises UsageError for a file whose name ends otherwise."""
    if isinstance(out, TableStream):
        return out.extension
    extension = out.suffix.lower()
    if extension not in EXTENSIONS:
        raise UsageError(
            f"out='{out}' ends with '{out.suffix}', which is no format of a table: allowed are "
            f"{', '.join(EXTENSIONS)}; or - for standard output"
        )
    return extension


def write_tables(out: Path | TableStream, tables: Iterable[Any]) -> int:
    """Write pyarrow tables of one schema and return the number of rows. One table is in memory at a time.

    A file is replaced when the new one is complete. Unknown values and NaN are empty in CSV and null in JSON lines.
    Raises StoreError if the file can't be written, BrokenPipeError if nothing reads the pipe any more.
    """
    if isinstance(out, TableStream):
        return _write(out.stream, out.extension, tables)
    extension = table_extension(out)
    pending = out.with_name(f".pending-{out.name}")
    try:
        rows = save_tables(pending, tables) if extension == ".parquet" else _save(pending, extension, tables)
        os.replace(pending, out)
    except OSError as error:
        is_source = error.filename is not None and Path(error.filename) != pending
        if is_source or isinstance(error, StoreError):  # the tables could not be read
            raise
        raise StoreError(
            f"could not write {out}: {error.strerror or error}. Give --out a path in a folder you may write"
        ) from error
    finally:
        with suppress(OSError):
            pending.unlink()
    return rows


def _save(file: Path, extension: str, tables: Iterable[Any]) -> int:
    with file.open("wb") as stream:
        return _write(stream, extension, tables)


def _write(stream: BinaryIO, extension: str, tables: Iterable[Any]) -> int:
    encode: Callable[[Iterable[Any]], Iterator[tuple[int, bytes]]] = _csv if extension == ".csv" else _json_lines
    total = 0
    for rows, encoded in encode(tables):
        stream.write(encoded)
        total += rows
    return total


def _csv(tables: Iterable[Any]) -> Iterator[tuple[int, bytes]]:
    """Each table's number of rows and its lines; the first one's begin with the names of the columns."""
    for number, table in enumerate(tables):
        lines = io.BytesIO()
        options = pyarrow.csv.WriteOptions(include_header=number == 0)
        pyarrow.csv.write_csv(_with_nulls(table), lines, options)
        yield table.num_rows, lines.getvalue()


def _json_lines(tables: Iterable[Any]) -> Iterator[tuple[int, bytes]]:
    # json and not DataFrame.to_json, which rounds to 15 digits: a score could pass a threshold that it does not reach.
    for table in tables:
        for batch in _with_nulls(table).to_batches(max_chunksize=ROWS_AT_ONCE):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
            yield batch.num_rows, lines.encode()


def _with_nulls(table: Any) -> Any:
    """The table with null in place of NaN, which not every reader knows."""
    columns = [
        pc.if_else(pc.is_nan(one), None, one) if pa.types.is_floating(one.type) else one for one in table.columns
    ]
    return pa.table(columns, schema=table.schema)
