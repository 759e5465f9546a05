"""Embeddings of the pool's examples, stored beside their ids, one object per shard."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuggets.errors import DamagedTable
from nuggets.pools.shards import Candidate
from nuggets.store.addresses import digest
from nuggets.store.store import Store

EMBEDDING_VERSION = 1  # raised when the same encoder and example would give another embedding
# Of what np.load can say about bytes that are not what np.savez has written.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(AttributeError, LookupError, OSError, OverflowError, RuntimeError, TypeError, ValueError),
)


def embeddings_path(encoder_digest: str, candidates: Sequence[Candidate]) -> str:
    """Address of a shard's embeddings: the encoder and the examples determine them."""
    return f"embeddings/{encoder_digest}/{digest([EMBEDDING_VERSION, *(item.id for item in candidates)])}.npz"


def write_embeddings(store: Store, path: str, ids: Sequence[str], vectors: NDArray[np.float16]) -> None:
    """Store a shard's embeddings beside its example ids."""
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array(ids, dtype="S32"), embeddings=vectors)
    store.write(path, buffer.getvalue())


def read_embeddings(store: Store, path: str) -> NDArray[np.float32]:
    """A shard's embeddings `(examples, width)`, in the order of the shard. Raises DamagedTable naming the file."""
    data = store.read(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return np.asarray(stored["embeddings"], dtype=np.float32)
    except _DAMAGE as error:
        raise DamagedTable(
            f"{store.uri(path)} is damaged and can't be read as embeddings ({error}): run again, and it is made anew"
        ) from error
