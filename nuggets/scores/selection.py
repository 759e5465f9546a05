"""Selection: which candidates a cut keeps, whatever the order of the pool and however large it is. Pure."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nuggets.scores.bounds import ScoreBounds, cutoff, undecided
from nuggets.scores.cuts import Cut, Threshold, kept_count
from nuggets.scores.golden import ScoreTable
from nuggets.scores.ranking import KEY_BYTES, Keys, rank_keys, score_keys

Tables = Callable[[], Iterable[ScoreTable]]  # a pool's shards, from the first again at every call
_LAST_KEY = b"\xff" * KEY_BYTES  # no key is greater


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """How many candidates have the same wins, cells and anchors: a pool of any size in a few thousand numbers."""

    bounds: ScoreBounds  # one entry per combination
    count: NDArray[np.int64]

    @property
    def candidates(self) -> int:
        """Size of the pool."""
        return int(self.count.sum())

    @property
    def eligible(self) -> "ScoreCounts":
        """Counts without unscorable candidates: these have no anchor and no score, and are never kept."""
        bounds, has_anchors = self.bounds, self.bounds.anchors > 0
        remaining = ScoreBounds(bounds.wins[has_anchors], bounds.losses[has_anchors], bounds.anchors[has_anchors])
        return ScoreCounts(remaining, self.count[has_anchors])


def count_scores(tables: Iterable[ScoreTable]) -> ScoreCounts:
    """Count the candidates of a pool by wins, cells and anchors."""
    total: Counter[tuple[int, int, int]] = Counter()
    for table in tables:
        triples, counts = np.unique(_triples(table), axis=0, return_counts=True)
        for triple, count in zip(triples.tolist(), counts.tolist(), strict=True):
            total[tuple(triple)] += count
    wins, cells, anchors = np.array(sorted(total), dtype=np.int32).reshape(-1, 3).T
    count = np.array([total[triple] for triple in sorted(total)], dtype=np.int64)
    return ScoreCounts(ScoreBounds(wins, cells - wins, anchors), count)


def candidates_by_cells(counts: ScoreCounts) -> dict[int, int]:
    """Number of candidates by number of cells."""
    total: Counter[int] = Counter()
    for cells, count in zip(counts.bounds.cells.tolist(), counts.count.tolist(), strict=True):
        total[cells] += count
    return dict(total)


def undecided_count(counts: ScoreCounts, cut: Cut) -> int:
    """Number of candidates that lack cells which the cut needs; 0 if the cut is decided."""
    return int(counts.count[undecided(counts.bounds, cut, counts.count)].sum())


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a decided cut divides a pool: the rank key of the last candidate that is kept; `b""` if none is."""

    last_kept: bytes

    def keeps(self, keys: Keys) -> NDArray[np.bool_]:
        """Mask of the candidates that are kept, given their rank keys."""
        kept: NDArray[np.bool_] = keys <= self.last_kept
        return kept


def find_boundary(tables: Tables, counts: ScoreCounts, cut: Cut) -> tuple[Boundary, int]:
    """The boundary of a cut and the number of candidates it keeps.

    The counts say at which score the boundary lies. Only candidates with this score are compared by mean gain and id:
    memory holds 2 * KEY_BYTES for each of them. Raises ValueError if cells that the cut needs are missing.
    """
    if missing := undecided_count(counts, cut):
        raise ValueError(f"{missing} candidates lack cells that the cut needs: compute them first")
    if isinstance(cut, Threshold):
        kept = int(counts.count[counts.bounds.low >= cutoff(counts.bounds.low, cut)].sum())
    else:
        kept = min(kept_count(cut, counts.candidates), counts.eligible.candidates)
    if kept in (0, counts.candidates):
        return Boundary(_LAST_KEY if kept else b""), kept
    scores = score_keys(counts.bounds)
    best_first = np.argsort(scores)
    last_score = scores[best_first][np.searchsorted(np.cumsum(counts.count[best_first]), kept)]
    better = int(counts.count[scores < last_score].sum())
    tied = np.concatenate([rank_keys(table)[score_keys(table.bounds) == last_score] for table in tables()])
    tied.partition(kept - better - 1)
    return Boundary(bytes(tied[kept - better - 1])), kept


@dataclass(frozen=True, slots=True)
class RankedRow:
    """A candidate with its rank, which counts from 1 over the whole pool."""

    rank: int
    candidate_id: str
    row: int
    shard: int
    wins: int
    cells: int
    anchors: int
    mean_gain: float
    kept: bool


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """A selection in numbers, with its best and its worst candidates."""

    counts: ScoreCounts
    kept: NDArray[np.int64]  # how many of each of `counts`
    best_and_worst: tuple[RankedRow, ...]  # in the order of rank
    unscorable: tuple[str, ...]  # example ids of the first candidates without a score


def summarize_selection(tables: Tables, counts: ScoreCounts, boundary: Boundary, *, shown: int) -> SelectionSummary:
    """Summarize a selection in one pass over the pool, with the `shown` best and the `shown` worst candidates."""
    bounds = counts.bounds
    triples = zip(bounds.wins.tolist(), bounds.cells.tolist(), bounds.anchors.tolist(), strict=True)
    index_of = {triple: index for index, triple in enumerate(triples)}
    kept = np.zeros(len(counts.count), dtype=np.int64)
    best: list[tuple[bytes, RankedRow]] = []
    worst: list[tuple[bytes, RankedRow]] = []
    unscorable: list[str] = []
    for table in tables():
        keys = rank_keys(table)
        is_kept = boundary.keeps(keys)
        for triple, count in zip(*np.unique(_triples(table)[is_kept], axis=0, return_counts=True), strict=True):
            kept[index_of[tuple(triple.tolist())]] += count
        unscorable += table.candidate_ids.take(pa.array(np.flatnonzero(table.anchors == 0))).to_pylist()
        order = np.argsort(keys)
        best = heapq.nsmallest(shown, [*best, *_keyed(table, keys, is_kept, order[:shown])], key=_key)
        worst = heapq.nlargest(shown, [*worst, *_keyed(table, keys, is_kept, order[-shown:])], key=_key)
    top = [replace(row, rank=rank) for rank, (_, row) in enumerate(best, start=1)]
    bottom = [replace(row, rank=counts.candidates - behind) for behind, (_, row) in enumerate(worst)]
    not_in_top = [row for row in reversed(bottom) if row.rank > len(top)]
    return SelectionSummary(counts, kept, (*top, *not_in_top), tuple(unscorable[:shown]))


def _triples(table: ScoreTable) -> NDArray[np.int32]:
    return np.stack([table.wins, table.cells, table.anchors], axis=1)


def _key(keyed: tuple[bytes, RankedRow]) -> bytes:
    return keyed[0]


def _keyed(
    table: ScoreTable, keys: Keys, is_kept: NDArray[np.bool_], indices: NDArray[np.int64]
) -> list[tuple[bytes, RankedRow]]:
    """Some candidates of a table with their rank keys. Their ranks are known when all tables have been read."""
    return [
        (
            bytes(keys[index]),
            RankedRow(
                rank=0,
                candidate_id=table.candidate_ids[index].as_py(),
                row=int(table.candidate_rows[index]),
                shard=int(table.shards[index]),
                wins=int(table.wins[index]),
                cells=int(table.cells[index]),
                anchors=int(table.anchors[index]),
                mean_gain=float(table.mean_gain[index]),
                kept=bool(is_kept[index]),
            ),
        )
        for index in indices.tolist()
    ]
