"""Tables as Parquet files in the store: encoding, compression, checksums, and errors of damaged files.

Every page has a checksum that is verified when it is read: a flipped bit is an error, never another number.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nuggets.errors import DamagedTable, StoreError, StoreUnavailable
from nuggets.store.store import Store


def table_bytes(columns: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Columns as a Parquet file; the same columns always give the same bytes."""
    table = pa.table(dict(columns))
    if metadata:
        table = table.replace_schema_metadata(dict(metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **_options(table.schema))
    return buffer.getvalue()


def save_tables(file: Path, tables: Iterable[Any]) -> int:
    """Write tables of one schema to a local Parquet file, a row group each; returns the number of rows.

    One table is in memory at a time. Raises ValueError without a table: a file needs columns.
    """
    rows = 0
    remaining = iter(tables)
    first = next(remaining, None)
    if first is None:
        raise ValueError("no tables: a file needs at least one for its columns")
    with pq.ParquetWriter(file, first.schema, **_options(first.schema)) as writer:
        for table in chain([first], remaining):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def read_table(store: Store, path: str, columns: Sequence[str] | None = None) -> Any:
    """The pyarrow table stored at `path`, all or some of its columns.

    Raises DamagedTable naming the file, and a transient StoreError if memory is short or the disk does not answer.
    """
    with store.open(path) as file, _errors_named(store, path):
        parquet = _open(file, columns)
        return parquet.read(_as_list(columns), use_threads=False)


def read_chosen(store: Store, path: str, choose: Callable[[Any], Sequence[str]]) -> Any:
    """The columns of a stored table that `choose` returns for its schema; errors as in `read_table`."""
    with store.open(path) as file, _errors_named(store, path):
        parquet = _open(file, None)
        return parquet.read(_as_list(choose(parquet.schema_arrow)), use_threads=False)


def read_batches(store: Store, path: str, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """A stored table, one row group in memory at a time. Raises DamagedTable naming the file."""
    with store.open(path) as file:
        with _errors_named(store, path):
            parquet = _open(file, columns)
        for group in range(parquet.num_row_groups):
            with _errors_named(store, path):
                table = parquet.read_row_group(group, _as_list(columns), use_threads=False)
            yield table


def _open(file: BinaryIO, columns: Sequence[str] | None) -> Any:
    # Without Arrow's threads: on a busy machine, a process that exits while they run is sometimes aborted.
    parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
    if missing := set(columns or ()) - set(parquet.schema_arrow.names):  # Arrow leaves them out without an error
        raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(missing))}")
    return parquet


def _as_list(columns: Sequence[str] | None) -> list[str] | None:
    return list(columns) if columns is not None else None


def _options(schema: Any) -> dict[str, Any]:
    # Floats rarely repeat: a dictionary of them would be larger than the values. With the first bytes of all values
    # together, then the second bytes, they compress to three quarters.
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    return {
        "compression": "zstd",
        "write_page_checksum": True,
        "use_dictionary": [field.name for field in schema if field.name not in floats],
        "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    }


@contextmanager
def memory_errors_named(store: Store, path: str) -> Iterator[None]:
    """Turn a MemoryError into a transient StoreError that names the object; the object may be undamaged."""
    try:
        yield
    except MemoryError as error:
        raise _out_of_memory(store, path) from error


@contextmanager
def _errors_named(store: Store, path: str) -> Iterator[None]:
    try:
        with memory_errors_named(store, path):
            yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # damaged bytes raise these, and so do disks
        if isinstance(error, StoreError):
            raise
        if "bad_alloc" in str(error):  # a lack of memory while Arrow parses a footer
            raise _out_of_memory(store, path) from error
        if isinstance(error, OSError) and error.errno is not None:  # from the operating system: the bytes are unknown
            raise StoreUnavailable(
                f"could not read {store.uri(path)}: {error.strerror}. The file is unchanged: run again, and check the "
                "disk or network of the store if it fails in the same way"
            ) from error
        raise DamagedTable(
            f"{store.uri(path)} is damaged and can't be read as Parquet ({error}): delete this file and run again; "
            "only its content is computed again"
        ) from error


def _out_of_memory(store: Store, path: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"could not read {store.uri(path)}: out of memory. Run fewer tasks or other programs at a time on this "
        "machine; if it fails with enough memory, this file is damaged: delete it; only its content is computed again"
    )
