"""Tables as Parquet bytes and back: the one place that knows how columns are laid down in the store."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nuggets.errors import StoreError
from nuggets.store import Store


def table_bytes(columns: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Columns as a Parquet file; the same columns always give the same bytes."""
    table = pa.table(dict(columns))
    if metadata:
        table = table.replace_schema_metadata(dict(metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_table(store: Store, path: str, columns: Sequence[str] | None = None) -> Any:
    """The pyarrow table stored at `path`, all or some of its columns. Raises StoreError naming a damaged file."""
    data = store.read(path)
    try:
        return pq.read_table(io.BytesIO(data), columns=list(columns) if columns is not None else None)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{store.uri(path)} is damaged and can't be read as Parquet ({error}): delete this file and run again; "
            "only what it held is computed anew"
        ) from error
