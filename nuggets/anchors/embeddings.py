"""Embeddings of the pool's examples, stored beside their ids, one object per shard."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from nuggets.errors import DamagedTable
from nuggets.models.encoder import Embeddings
from nuggets.pools.shards import Candidate
from nuggets.store.addresses import digest
from nuggets.store.store import Store

EMBEDDING_VERSION = 3  # raised when the same encoder and example would give another embedding
# What np.load raises for bytes that np.savez has not written.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(AttributeError, LookupError, OSError, OverflowError, RuntimeError, TypeError, ValueError),
)


def embeddings_path(encoder_digest: str, candidates: Sequence[Candidate]) -> str:
    """Address of a shard's embeddings: the encoder and the examples determine them."""
    return f"embeddings/{encoder_digest}/{digest([EMBEDDING_VERSION, *(item.id for item in candidates)])}.npz"


def write_embeddings(store: Store, path: str, ids: Sequence[str], embeddings: Embeddings) -> None:
    """Store a shard's embeddings beside its example ids."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.array(ids, dtype="S32"),
        embeddings=embeddings.vectors,
        windows=embeddings.windows,
        reading=np.array(embeddings.reading),
    )
    store.write(path, buffer.getvalue())


def read_embeddings(store: Store, path: str) -> Embeddings:
    """A shard's embeddings, in the order of the shard. Raises DamagedTable naming the file."""
    data = store.read(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            vectors, windows, reading = (np.asarray(arrays[name]) for name in ("embeddings", "windows", "reading"))
            return Embeddings(vectors, windows, str(reading))
    except _DAMAGE as error:
        raise DamagedTable(
            f"{store.uri(path)} is damaged and can't be read as embeddings ({error}): run again to compute it again"
        ) from error
