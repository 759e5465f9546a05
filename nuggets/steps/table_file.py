"""A table as a file for other programs: Parquet, CSV or JSON lines, by the ending of the file's name."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets.errors import StoreError, UsageError
from nuggets.store.parquet import save_tables

if TYPE_CHECKING:
    from pandas import DataFrame

EXTENSIONS = (".parquet", ".csv", ".jsonl")
ROWS_AT_ONCE = 1 << 15


def table_extension(out: Path) -> str:
    """Which of EXTENSIONS the file's name ends with. Raises UsageError for any other ending."""
    extension = out.suffix.lower()
    if extension not in EXTENSIONS:
        raise UsageError(
            f"out='{out}' ends with '{out.suffix}', which is no format of a table: allowed are {', '.join(EXTENSIONS)}"
        )
    return extension


def write_tables(out: Path, tables: Iterable[Any]) -> int:
    """Write pyarrow tables of one schema as one file and return the number of rows. One table is in memory at a time.

    `out` is replaced when the new file is complete. Unknown values and NaN are empty in CSV and null in JSON lines.
    Raises StoreError if the file can't be written.
    """
    save = {".parquet": save_tables, ".csv": _save_csv, ".jsonl": _save_json_lines}[table_extension(out)]
    pending = out.with_name(f".pending-{out.name}")
    try:
        rows = save(pending, tables)
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


def _save_csv(file: Path, tables: Iterable[Any]) -> int:
    rows = 0
    with file.open("w", encoding="utf-8", newline="") as lines:
        for frame in _frames(tables):
            frame.to_csv(lines, index=False, header=rows == 0, lineterminator="\n")
            rows += len(frame)
    return rows


def _save_json_lines(file: Path, tables: Iterable[Any]) -> int:
    # json and not DataFrame.to_json, which rounds to 15 digits: a score could pass a threshold that it does not reach.
    rows = 0
    with file.open("w", encoding="utf-8") as lines:
        for frame in _frames(tables):
            records = frame.astype(object).where(frame.notna(), None).to_dict("records")
            lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            rows += len(frame)
    return rows


def _frames(tables: Iterable[Any]) -> "Iterator[DataFrame]":
    """The tables as frames of bounded size; an empty table is an empty frame, because CSV needs its header."""
    for table in tables:
        for start in range(0, max(table.num_rows, 1), ROWS_AT_ONCE):
            yield table.slice(start, ROWS_AT_ONCE).to_pandas()
