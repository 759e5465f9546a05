"""k-means over embeddings that may not fit in memory, and the distinct examples nearest to its centres. Pure."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nuggets.errors import InputError

Vectors = NDArray[np.float32]
Batches = Callable[[], Iterable[Vectors]]  # reads the pool's embeddings from the start, in its order, in pieces
FULL_KMEANS_ROWS = 50_000  # up to here k-means sees all rows at once; above it, MiniBatchKMeans streams them
_MINI_BATCH = 4096
_MINI_BATCH_PASSES = 3
_NOT_OWN = 1e6  # added to the distance of another cluster's members: they are taken only when no own one is left


def cluster_centres(batches: Batches, *, rows: int, clusters: int, seed: int) -> Vectors:
    """Centres `(clusters, width)` of k-means with k-means++ starts.

    Up to FULL_KMEANS_ROWS rows by Lloyd's algorithm, above by mini-batches of a stream, started from a sample of
    FULL_KMEANS_ROWS rows drawn with the seed. One thread: several would add up in changing order, and a centre that
    moves in its last digit can have another nearest example.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        if rows <= FULL_KMEANS_ROWS:
            model = KMeans(n_clusters=clusters, random_state=seed, n_init=1).fit(np.concatenate(list(batches())))
        else:
            drawn = np.sort(np.random.default_rng(seed).choice(rows, FULL_KMEANS_ROWS, replace=False))
            model = MiniBatchKMeans(n_clusters=clusters, random_state=seed, batch_size=_MINI_BATCH, n_init=1)
            model.partial_fit(_take(batches(), drawn))
            for _ in range(_MINI_BATCH_PASSES):
                for batch in _rebatched(batches(), _MINI_BATCH):
                    model.partial_fit(batch)
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def nearest_members(batches: Batches, centres: Vectors, *, scorable: Callable[[int], bool]) -> list[int]:
    """For each centre the row of the nearest example of its cluster, all distinct, all scorable.

    Where a cluster has no scorable member left, the nearest example of another cluster stands in. Ties go to the
    lower row. Raises InputError if there are fewer scorable examples than centres.
    """
    kept = len(centres) + 32  # enough for distinctness, and some more for examples that can't be scored
    while True:
        distances, rows = _ranked(batches(), centres, kept)
        chosen: list[int] = []
        for ranking in rows:
            free = (int(row) for row in ranking if row >= 0 and row not in chosen)
            chosen.extend(islice((row for row in free if scorable(row)), 1))
        if len(chosen) == len(centres):
            return chosen
        if not np.isfinite(distances).all():  # the whole pool was ranked
            raise InputError(
                f"only {len(chosen)} examples of the pool can be scored as anchors (the others have no response tokens "
                f"within anchor_tokens), {len(centres)} are needed: ask for fewer anchors or raise anchor_tokens"
            )
        kept *= 4


def _ranked(batches: Iterable[Vectors], centres: Vectors, kept: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The `kept` nearest rows of each centre, own members first: distances and rows `(centres, kept)`.

    Where there are fewer, distances are padded with inf and rows with -1.
    """
    distances = np.full((len(centres), kept), np.inf)
    rows = np.full((len(centres), kept), -1, dtype=np.int64)
    start = 0
    for batch in _rebatched(batches, _MINI_BATCH):
        squared = _squared_distances(batch, centres)
        own = squared.argmin(axis=1)
        squared += _NOT_OWN
        squared[np.arange(len(batch)), own] -= _NOT_OWN
        numbers = np.broadcast_to(np.arange(start, start + len(batch)), (len(centres), len(batch)))
        distances = np.concatenate([distances, squared.T], axis=1)
        rows = np.concatenate([rows, numbers], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :kept]  # stable: earlier rows win ties
        distances = np.take_along_axis(distances, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        start += len(batch)
    return distances, rows


def _squared_distances(batch: Vectors, centres: Vectors) -> NDArray[np.float64]:
    left, right = batch.astype(np.float64), centres.astype(np.float64)
    squared: NDArray[np.float64] = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
    return squared


def _rebatched(batches: Iterable[Vectors], size: int) -> Iterator[Vectors]:
    """The same rows in pieces of one size, so that the result does not depend on how the pool was sharded."""
    rows = (row for batch in batches for row in batch)
    while piece := list(islice(rows, size)):
        yield np.stack(piece)


def _take(batches: Iterable[Vectors], wanted: NDArray[np.int64]) -> Vectors:
    parts: list[Vectors] = []
    start = 0
    for batch in batches:
        inside = wanted[(wanted >= start) & (wanted < start + len(batch))] - start
        parts.append(batch[inside])
        start += len(batch)
    return np.concatenate(parts)
