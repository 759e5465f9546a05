"""k-means over embeddings that may not fit in memory, and the distinct rows nearest to its centres. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nuggets.errors import InputError

Vectors = NDArray[np.float32]
Batches = Callable[[], Iterable[Vectors]]  # reads the pool's embeddings from the start, in its order, in pieces
FaultsOf = Callable[[int, Sequence[int]], tuple[str, ...]]  # of a row, given the rows that are chosen already
FULL_KMEANS_ROWS = 50_000  # up to here k-means sees all rows at once; above it, MiniBatchKMeans streams them
EXTRA_RANKED = 32  # rows that are ranked beyond one per centre: enough for most rows that are passed over
MINI_BATCH = 4096
_MINI_BATCH_PASSES = 3
_NOT_OWN = 1e6  # added to the distance of rows of other clusters: they are taken only when no own row is left


def cluster_centres(batches: Batches, *, rows: int, clusters: int, seed: int) -> Vectors:
    """Centres `(clusters, width)` of k-means with k-means++ starts.

    Lloyd's algorithm up to FULL_KMEANS_ROWS rows; above, mini-batches of a stream, started from a sample of
    FULL_KMEANS_ROWS rows drawn with the seed. One thread only: several would add in varying order, and a centre that
    differs in its last digit can have another nearest example.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        if rows <= FULL_KMEANS_ROWS:
            model = KMeans(n_clusters=clusters, random_state=seed, n_init=1).fit(np.concatenate(list(batches())))
        else:
            drawn = np.sort(np.random.default_rng(seed).choice(rows, FULL_KMEANS_ROWS, replace=False))
            model = MiniBatchKMeans(n_clusters=clusters, random_state=seed, batch_size=MINI_BATCH, n_init=1)
            model.partial_fit(_take(batches(), drawn))
            for _ in range(_MINI_BATCH_PASSES):
                for batch in _rebatched(batches(), MINI_BATCH):
                    model.partial_fit(batch)
    return np.asarray(model.cluster_centers_, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Member:
    """The row that represents a cluster, and one fault of each nearer row that was passed over."""

    row: int
    faults: tuple[str, ...]  # of the row itself: tolerated because too few rows have none
    passed_over: tuple[str, ...]


def nearest_members(
    batches: Batches, centres: Vectors, *, faults: FaultsOf, tolerated: Sequence[str] = ()
) -> list[Member]:
    """For each centre the nearest row of its cluster without faults; all rows are distinct. Ties go to the lower row.

    `faults` returns the faults of a row, given the rows chosen before. Where a cluster has no faultless row left, the
    nearest one of another cluster is taken. Where none of a centre's `len(centres)` + EXTRA_RANKED nearest rows is
    faultless, its nearest row with faults among the first of `tolerated` is taken, then among the first two, and so on.
    Raises InputError if the pool has fewer rows with tolerated faults than there are centres.
    """
    kept = len(centres) + EXTRA_RANKED
    while True:
        distances, rows = _ranked(batches(), centres, kept)
        members: dict[int, Member] = {}
        for number in range(len(tolerated) + 1):
            _choose(members, rows, faults=faults, accepted=frozenset(tolerated[:number]))
        if len(members) == len(centres):
            return [members[centre] for centre in range(len(centres))]
        if not np.isfinite(distances).all():  # the whole pool was ranked
            raise InputError(
                f"only {len(members)} examples of the pool can be scored as anchors (the others have too little of "
                f"their response within anchor_tokens, or the tokenizer can't reproduce them), {len(centres)} are "
                "needed: ask for fewer anchors or raise anchor_tokens"
            )
        kept *= 4


def _choose(
    members: dict[int, Member], rankings: NDArray[np.int64], *, faults: FaultsOf, accepted: frozenset[str]
) -> None:
    """Add a member for each centre that has none, where its ranking holds a row with accepted faults only."""
    for centre, ranking in enumerate(rankings):
        taken = [member.row for member in members.values()]
        passed_over: list[str] = []
        for row in ranking if centre not in members else ():
            if row < 0 or row in taken:
                continue
            row_faults = faults(int(row), taken)
            if accepted.issuperset(row_faults):
                members[centre] = Member(int(row), row_faults, tuple(passed_over))
                break
            passed_over.append(row_faults[0])


def _ranked(batches: Iterable[Vectors], centres: Vectors, kept: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The `kept` nearest rows of each centre, own members first: distances and rows `(centres, kept)`.

    Where there are fewer, distances are padded with inf and rows with -1.
    """
    distances = np.full((len(centres), kept), np.inf)
    rows = np.full((len(centres), kept), -1, dtype=np.int64)
    start = 0
    for batch in _rebatched(batches, MINI_BATCH):
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
