"""Embeddings of the pool's examples, stored beside their ids, one object per shard."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.addresses import digest
from nuggets.errors import DamagedTable, InputError
from nuggets.examples import Example
from nuggets.loaded_model import loaded_model, reading_weights
from nuggets.model_files import ModelFiles, files_digest
from nuggets.pool import Candidate, read_candidates
from nuggets.preparation import PreparedRun
from nuggets.progress import report_stage
from nuggets.store import Store, open_store

EMBEDDING_VERSION = 1  # raised when the same encoder and example would give another embedding
# Of what np.load can say about bytes that are not what np.savez has written.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(AttributeError, LookupError, OSError, OverflowError, RuntimeError, TypeError, ValueError),
)
_PROBE = (Example("a", "", "b"), Example("a longer one, so that the other is padded", "", "b"))


def load_encoder(files: ModelFiles, *, trust_remote_code: bool = False) -> Any:
    """The sentence-transformers model; kept until another model is asked for, or its files change."""
    key = ("encoder", files, files_digest(files), trust_remote_code)
    return loaded_model(key, lambda: _load(files, trust_remote_code))


def _load(files: ModelFiles, trust_remote_code: bool) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()
    try:
        with reading_weights(f"encoder='{files.name}'"):
            encoder = SentenceTransformer(
                files.folder, trust_remote_code=trust_remote_code, model_kwargs={"use_safetensors": True}
            )
            embed_examples(encoder, _PROBE)
    except InputError:
        raise
    except (AttributeError, ImportError, IndexError, LookupError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"encoder='{files.name}' is not a sentence-transformers model that can embed ({error}): give the folder or "
            "hub id of one, such as sentence-transformers/all-MiniLM-L6-v2, or leave it out for the packaged one"
        ) from error
    return encoder


def embeddings_path(encoder_digest: str, candidates: Sequence[Candidate]) -> str:
    """Address of a shard's embeddings: the encoder and the examples determine them."""
    return f"embeddings/{encoder_digest}/{digest([EMBEDDING_VERSION, *(item.id for item in candidates)])}.npz"


def embed_examples(encoder: Any, examples: Sequence[Example]) -> NDArray[np.float16]:
    """Unit vectors `(examples, width)` of instruction, input and output together.

    float16 halves what a large pool takes in the store; clustering computes in float32.
    """
    texts = ["\n".join(part for part in (item.instruction, item.input, item.output) if part) for item in examples]
    vectors = encoder.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float16)


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


def embed_shard(prepared: PreparedRun, shard: str) -> str:
    """Path of a shard's embeddings in the store, computed if they are not there."""
    store = open_store(prepared.store)
    candidates = read_candidates(store, shard)
    path = embeddings_path(prepared.encoder_digest, candidates)
    if prepared.encoder is None or _are_stored(store, path, len(candidates)):
        return path
    encoder = load_encoder(prepared.encoder, trust_remote_code=prepared.trust_encoder_code)
    vectors = embed_examples(encoder, [item.example for item in candidates])
    write_embeddings(store, path, [item.id for item in candidates], vectors)
    report_stage(f"embedded {len(candidates)} examples of {shard.rpartition('/')[2]}")
    return path


def _are_stored(store: Store, path: str, examples: int) -> bool:
    """Whether a shard's embeddings are there and whole; that they are not whole is said."""
    try:
        found = len(read_embeddings(store, path))
    except FileNotFoundError:
        return False
    except DamagedTable as error:
        report_stage(f"{store.uri(path)} is damaged and computed again ({error.__cause__})")
        return False
    return found == examples
