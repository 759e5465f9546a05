"""Examples and embeddings of a whole pool by position, which counts from 0 through all shards."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nuggets.anchors.embeddings import read_embeddings
from nuggets.pools.shards import Candidate, Pool, read_candidates
from nuggets.store.store import Store

_SHARDS_IN_MEMORY = 8
_VECTORS_IN_MEMORY = 4096  # single vectors: each candidate is compared with those of all chosen anchors


class PoolVectors:
    """A pool's examples and their embeddings; `embeddings` are the paths per shard."""

    def __init__(self, store: Store, pool: Pool, embeddings: Sequence[str]) -> None:
        self._store = store
        self._paths = tuple(embeddings)
        self._ends = np.cumsum(pool.shard_examples)
        self._candidates = lru_cache(_SHARDS_IN_MEMORY)(lambda shard: read_candidates(store, pool.shards[shard]))
        self._vectors = lru_cache(_SHARDS_IN_MEMORY)(lambda shard: read_embeddings(store, self._paths[shard]).vectors)
        self.vector = lru_cache(_VECTORS_IN_MEMORY)(self._read_vector)

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """All embeddings, a shard at a time."""
        return (read_embeddings(self._store, path).vectors.astype(np.float32) for path in self._paths)

    def count_long(self) -> int:
        """How many examples are longer than the encoder's window."""
        return sum(int((read_embeddings(self._store, path).windows > 1).sum()) for path in self._paths)

    @property
    def reading(self) -> str:
        """How the encoder read the examples."""
        return read_embeddings(self._store, self._paths[0]).reading

    def candidate(self, position: int) -> Candidate:
        """The example at a position."""
        shard, row = self._locate(position)
        return self._candidates(shard)[row]

    def _read_vector(self, position: int) -> NDArray[np.float32]:
        shard, row = self._locate(position)
        return np.asarray(self._vectors(shard)[row], dtype=np.float32)

    def _locate(self, position: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, position, side="right"))
        return shard, position - (int(self._ends[shard - 1]) if shard else 0)
