"""Tables as Parquet and back: the one place that knows how columns are laid down in the store.

Every page carries a checksum that is verified when it is read: a flipped bit is an error, never a number.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nuggets.errors import DamagedTable, StoreError
from nuggets.store.store import Store


def table_bytes(columns: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Columns as a Parquet file; the same columns always give the same bytes."""
    table = pa.table(dict(columns))
    if metadata:
        table = table.replace_schema_metadata(dict(metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **_laid_down(table.schema))
    return buffer.getvalue()


def save_tables(file: Path, tables: Iterable[Any]) -> int:
    """Lay tables of one schema down as a local Parquet file, a row group each; returns how many rows.

    One table is in memory at a time. Raises ValueError if there is none, since a file has to know its columns.
    """
    rows = 0
    waiting = iter(tables)
    first = next(waiting, None)
    if first is None:
        raise ValueError("no tables: a file needs at least one to know its columns")
    with pq.ParquetWriter(file, first.schema, **_laid_down(first.schema)) as writer:
        for table in chain([first], waiting):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def read_table(store: Store, path: str, columns: Sequence[str] | None = None) -> Any:
    """The pyarrow table stored at `path`, all or some of its columns.

    Raises DamagedTable naming the file, and StoreError that may pass where memory is short or the disk does not answer.
    """
    with store.open(path) as file, _named_if_damaged(store, path):
        parquet = _opened(file, columns)
        return parquet.read(_listed(columns), use_threads=False)


def read_chosen(store: Store, path: str, choose: Callable[[Any], Sequence[str]]) -> Any:
    """Those columns of a stored table that `choose` names, given its schema; errors as in `read_table`."""
    with store.open(path) as file, _named_if_damaged(store, path):
        parquet = _opened(file, None)
        return parquet.read(_listed(choose(parquet.schema_arrow)), use_threads=False)


def read_batches(store: Store, path: str, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """A stored table, one row group in memory at a time. Raises DamagedTable naming the file."""
    with store.open(path) as file:
        with _named_if_damaged(store, path):
            parquet = _opened(file, columns)
        for group in range(parquet.num_row_groups):
            with _named_if_damaged(store, path):
                table = parquet.read_row_group(group, _listed(columns), use_threads=False)
            yield table


def _opened(file: BinaryIO, columns: Sequence[str] | None) -> Any:
    # No threads of Arrow's own: where the machine is busy, a process that ends while they do is sometimes aborted.
    parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
    if missing := set(columns or ()) - set(parquet.schema_arrow.names):  # they would be left out without a word
        raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(missing))}")
    return parquet


def _listed(columns: Sequence[str] | None) -> list[str] | None:
    return list(columns) if columns is not None else None


def _laid_down(schema: Any) -> dict[str, Any]:
    # Floats hardly ever repeat: a dictionary of them would be larger than they are. Their bytes side by side, all first
    # ones, all second ones, compress to three quarters.
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    return {
        "compression": "zstd",
        "write_page_checksum": True,
        "use_dictionary": [field.name for field in schema if field.name not in floats],
        "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    }


@contextmanager
def short_of_memory_named(store: Store, path: str) -> Iterator[None]:
    """Have a lack of memory name what was being read, as a StoreError that may pass: it says nothing of the object."""
    try:
        yield
    except MemoryError as error:
        raise _short_of_memory(store, path) from error


@contextmanager
def _named_if_damaged(store: Store, path: str) -> Iterator[None]:
    try:
        with short_of_memory_named(store, path):
            yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # what damaged bytes raise, and others do too
        if isinstance(error, StoreError):
            raise
        if "bad_alloc" in str(error):  # how a lack of memory looks where Arrow parses a footer
            raise _short_of_memory(store, path) from error
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # of the operating system, which could not give us the bytes
            raise StoreError(
                f"could not read {store.uri(path)}: {error.strerror}. It is left as it is: run again, and have a look "
                "at the disk or network below the store if it fails in the same way",
                is_transient=True,
            ) from error
        raise DamagedTable(
            f"{store.uri(path)} is damaged and can't be read as Parquet ({error}): delete this file and run again; "
            "only what it held is computed anew"
        ) from error


def _short_of_memory(store: Store, path: str) -> StoreError:
    return StoreError(
        f"could not read {store.uri(path)}: memory is short. Have fewer tasks or other programs at a time on this "
        "machine; if it fails where memory is plenty, this file is damaged: delete it, and only what it held is "
        "computed anew",
        is_transient=True,
    )
