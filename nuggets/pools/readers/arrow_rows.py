"""Rows of Parquet files and of Arrow streams, as JSON-like values."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nuggets.errors import InputError, StoreError
from nuggets.examples import row_too_large, undecodable
from nuggets.pools.readers.formats import ARROW_FILE
from nuggets.pools.readers.stored_file import StoredFile

# Raised for damaged bytes, among them a column name that isn't UTF-8 and a length that exceeds memory.
_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError)
_BATCH_ROWS = 64  # rows that are Python objects at a time


def read_parquet(file: StoredFile, max_row_bytes: int) -> Iterator[object]:
    """The rows of a Parquet file. Raises InputError where it is damaged. A row group is in memory at a time."""
    try:
        table = pq.ParquetFile(file, pre_buffer=False)
        missing = table.metadata.num_rows
        for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
            missing -= batch.num_rows
            yield from _batch_rows(_in_known_zones(batch), max_row_bytes)
        if missing:
            raise pa.ArrowInvalid(f"{missing} of {table.metadata.num_rows} rows are missing")
    except StoreError:  # it is an OSError, too, but not damage
        raise
    except _DAMAGE as error:
        raise _damaged(file.address, "Parquet", error) from error


def read_arrow(file: StoredFile, max_row_bytes: int) -> Iterator[object]:
    """The rows of an Arrow stream, or of an Arrow file (Feather). A record batch is in memory at a time.

    Raises InputError where it is damaged.
    """
    try:
        for batch in _file_batches(file) if file.head(len(ARROW_FILE)) == ARROW_FILE else _stream_batches(file):
            _check_offsets(batch)
            batch = _in_known_zones(batch)
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                yield from _batch_rows(batch.slice(start, _BATCH_ROWS), max_row_bytes)
    except StoreError:  # it is an OSError, too, but not damage
        raise
    except _DAMAGE as error:
        raise _damaged(file.address, "Arrow", error) from error


def _stream_batches(file: StoredFile) -> Iterator[Any]:
    with pa.ipc.open_stream(file) as batches:
        yield from batches
        if file.read(1):  # a damaged length can look like the mark that ends a stream
            raise pa.ArrowInvalid("the stream ends before the file does")


def _file_batches(file: StoredFile) -> Iterator[Any]:
    with pa.ipc.open_file(file) as batches:
        yield from (batches.get_batch(number) for number in range(batches.num_record_batches))


def _check_offsets(batch: Any) -> None:
    # Arrow trusts the offsets in a stream, and a damaged one would crash the whole process when its text is read.
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "Invalid UTF8" not in str(error):  # this one is reported later, for its row alone
                raise


def _in_known_zones(batch: Any) -> Any:
    """The same rows, with timestamps in UTC where this machine does not know their zone; Arrow stores them in UTC."""
    wanted = pa.schema([field.with_type(_in_known_zone(field.type)) for field in batch.schema])
    return batch if wanted.equals(batch.schema) else batch.cast(wanted)


def _in_known_zone(kind: Any) -> Any:
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        try:
            pa.lib.string_to_tzinfo(kind.tz)
        except Exception:  # the error type depends on the installed time zone library
            return pa.timestamp(kind.unit, "UTC")
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_in_known_zone(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_in_known_zone(kind.key_type), _in_known_zone(kind.item_type), kind.keys_sorted)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_known_zone(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_in_known_zone(kind.value_type)))
    return kind


def _batch_rows(batch: Any, max_row_bytes: int) -> Iterator[object]:
    try:
        values = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # a text that isn't UTF-8, or a date that Python can't hold
        if batch.num_rows == 1:
            yield undecodable(f"a value can't be decoded: {error}")
        else:  # a bad row must not reject the other rows of its batch
            for row in range(batch.num_rows):
                yield from _batch_rows(batch.slice(row, 1), max_row_bytes)
        return
    for value in values:
        row = _json_like(value)
        size = len(json.dumps(row, ensure_ascii=False).encode())
        yield row_too_large(max_row_bytes) if size > max_row_bytes else row


def _json_like(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _json_like(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_like(item) for item in value]
    if isinstance(value, bytes):
        return _text_of(value)
    if hasattr(value, "isoformat"):  # dates, times, timestamps and, where pandas is installed, durations
        return value.isoformat()
    return str(value)


def _text_of(value: bytes) -> object:
    # Some writers store text as binary. Other binary data, such as an image, must not be taken for text.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


def _damaged(address: str, form: str, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return InputError(f"'{address}' can't be read as {form}: {reason}. Copy it again, or remove the file")
