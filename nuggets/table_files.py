"""A table as a file for other programs: Parquet, CSV or JSON lines, as the file's name ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from nuggets.errors import UsageError

EXTENSIONS = (".parquet", ".csv", ".jsonl")
_ROWS_AT_ONCE = 1 << 15


def table_extension(out: Path) -> str:
    """Which of EXTENSIONS a file's name ends with. Raises UsageError if it is none."""
    extension = out.suffix.lower()
    if extension not in EXTENSIONS:
        raise UsageError(
            f"out='{out}' ends with '{out.suffix}', which is no format of a table: allowed are {', '.join(EXTENSIONS)}"
        )
    return extension


def convert_parquet(source: Path, target: Path, extension: str) -> None:
    """Write a local Parquet file's rows as CSV or JSON lines, some ten thousand in memory at a time.

    What is unknown is empty in CSV and null in JSON lines, NaN too: not every reader knows what that is.
    """
    write = {".csv": _write_csv, ".jsonl": _write_json_lines}[extension]
    with pq.ParquetFile(source) as parquet:
        write(parquet, target)


def _write_csv(parquet: Any, target: Path) -> None:
    with pa.csv.CSVWriter(target, parquet.schema_arrow) as lines:
        for table in _tables(parquet):
            lines.write_table(table)


def _write_json_lines(parquet: Any, target: Path) -> None:
    with target.open("w", encoding="utf-8") as lines:
        for table in _tables(parquet):
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


def _tables(parquet: Any) -> Iterator[Any]:
    for batch in parquet.iter_batches(_ROWS_AT_ONCE, use_threads=False):
        columns = [pc.if_else(pc.is_nan(one), None, one) if pa.types.is_floating(one.type) else one for one in batch]
        yield pa.table(columns, schema=batch.schema)
