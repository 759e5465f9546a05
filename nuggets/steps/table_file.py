"""A table as a file for other programs: Parquet, CSV or JSON lines, by the ending of the file's name."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from nuggets.errors import StoreError, UsageError
from nuggets.store.parquet import save_tables

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
    remaining = iter(tables)
    first = next(remaining)
    with pyarrow.csv.CSVWriter(file, first.schema) as lines:
        for table in chain([first], remaining):
            lines.write_table(_with_nulls(table))
            rows += table.num_rows
    return rows


def _save_json_lines(file: Path, tables: Iterable[Any]) -> int:
    # json and not DataFrame.to_json, which rounds to 15 digits: a score could pass a threshold that it does not reach.
    rows = 0
    with file.open("w", encoding="utf-8") as lines:
        for table in tables:
            for batch in _with_nulls(table).to_batches(max_chunksize=ROWS_AT_ONCE):
                lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
            rows += table.num_rows
    return rows


def _with_nulls(table: Any) -> Any:
    """The table with null in place of NaN, which not every reader knows."""
    columns = [
        pc.if_else(pc.is_nan(one), None, one) if pa.types.is_floating(one.type) else one for one in table.columns
    ]
    return pa.table(columns, schema=table.schema)
