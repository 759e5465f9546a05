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
from nuggets.scores.ranking import KEY_BYTES, Keys, nth_key, rank_keys

Tables = Callable[[], Iterable[ScoreTable]]  # a pool's shards, from the first again at every call
_EVERYBODY = b"\xff" * KEY_BYTES


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """How many candidates of a pool stand where: a pool of any size in a few thousand numbers."""

    bounds: ScoreBounds  # one entry per level
    count: NDArray[np.int64]

    @property
    def candidates(self) -> int:
        """Of the whole pool."""
        return int(self.count.sum())

    @property
    def eligible(self) -> "ScoreCounts":
        """Those of candidates that are judged on something: who was set aside has no score, and is never kept."""
        some = self.bounds.anchors > 0
        bounds = self.bounds
        return ScoreCounts(ScoreBounds(bounds.wins[some], bounds.losses[some], bounds.anchors[some]), self.count[some])


def count_scores(tables: Iterable[ScoreTable]) -> ScoreCounts:
    """The levels of a pool."""
    counted: Counter[tuple[int, int, int]] = Counter()
    for table in tables:
        rows = np.stack([table.wins, table.cells, table.anchors], axis=1)
        found, count = np.unique(rows, axis=0, return_counts=True)
        for row, number in zip(found.tolist(), count.tolist(), strict=True):
            counted[tuple(row)] += number
    wins, cells, anchors = np.array(sorted(counted), dtype=np.int32).reshape(-1, 3).T
    count = np.array([counted[level] for level in sorted(counted)], dtype=np.int64)
    return ScoreCounts(ScoreBounds(wins, cells - wins, anchors), count)


def candidates_by_cells(levels: ScoreCounts) -> dict[int, int]:
    """How many candidates have how many of their cells."""
    counted: Counter[int] = Counter()
    for cells, count in zip(levels.bounds.cells.tolist(), levels.count.tolist(), strict=True):
        counted[cells] += count
    return dict(counted)


def undecided_count(levels: ScoreCounts, cut: Cut) -> int:
    """How many candidates lack cells that the cut needs; 0 if its answer is certain."""
    return int(levels.count[undecided(levels.bounds, cut, levels.count)].sum())


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a decided cut parts a pool: the key of the last candidate that is kept; `b""` if none is."""

    last: bytes

    def keeps(self, keys: Keys) -> NDArray[np.bool_]:
        """Whether each of some candidates is kept."""
        kept: NDArray[np.bool_] = keys <= self.last
        return kept


def find_boundary(tables: Tables, levels: ScoreCounts, cut: Cut, *, memory: int) -> tuple[Boundary, int]:
    """The boundary of a cut, and how many it keeps; `memory` bytes are taken at most.

    Raises ValueError if cells that the cut needs are missing.
    """
    if missing := undecided_count(levels, cut):
        raise ValueError(f"{missing} candidates lack cells that the cut needs: compute them first")
    if isinstance(cut, Threshold):
        kept = int(levels.count[levels.bounds.low >= cutoff(levels.bounds.low, cut)].sum())
    else:
        kept = min(kept_count(cut, levels.candidates), levels.eligible.candidates)
    if kept in (0, levels.candidates):
        return Boundary(_EVERYBODY if kept else b""), kept
    limit = max(1024, memory // (8 * KEY_BYTES))  # keys, their draws, and what sorting takes
    return Boundary(nth_key(lambda: map(rank_keys, tables()), kept, limit=limit)), kept


@dataclass(frozen=True, slots=True)
class RankedRow:
    """A candidate's place and what is known of it; `rank` counts from 1 over the whole pool."""

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
    """What a selection comes to: its levels, how many of each are kept, and the candidates at both ends."""

    levels: ScoreCounts
    kept: NDArray[np.int64]  # per level
    ends: tuple[RankedRow, ...]  # the best and the worst, in the order of rank
    set_aside: tuple[str, ...]  # example ids of those that are judged on nothing, at most as many as there are ends


def summarize_selection(tables: Tables, levels: ScoreCounts, boundary: Boundary, *, ends: int) -> SelectionSummary:
    """Look over a pool once: `ends` candidates of each end are kept in memory."""
    places = {level: place for place, level in enumerate(zip(*_triples(levels), strict=True))}
    kept = np.zeros(len(levels.count), dtype=np.int64)
    best: list[tuple[bytes, RankedRow]] = []
    worst: list[tuple[bytes, RankedRow]] = []
    aside: list[str] = []
    for table in tables():
        keys = rank_keys(table)
        is_kept = boundary.keeps(keys)
        rows = np.stack([table.wins, table.cells, table.anchors], axis=1)[is_kept]
        for row, count in zip(*np.unique(rows, axis=0, return_counts=True), strict=True):
            kept[places[tuple(row.tolist())]] += count
        aside += table.candidate_ids.take(pa.array(np.flatnonzero(table.anchors == 0))).to_pylist()
        order = np.argsort(keys)
        some = [(bytes(keys[place]), _ranked(table, int(place), kept=bool(is_kept[place]))) for place in order[:ends]]
        best = heapq.nsmallest(ends, [*best, *some], key=lambda item: item[0])
        some = [(bytes(keys[place]), _ranked(table, int(place), kept=bool(is_kept[place]))) for place in order[-ends:]]
        worst = heapq.nlargest(ends, [*worst, *some], key=lambda item: item[0])
    total = levels.candidates
    top = [replace(row, rank=rank) for rank, (_, row) in enumerate(best, start=1)]
    bottom = [replace(row, rank=total - place) for place, (_, row) in enumerate(worst)]
    return SelectionSummary(
        levels, kept, (*top, *(row for row in reversed(bottom) if row.rank > len(top))), tuple(aside[:ends])
    )


def _triples(levels: ScoreCounts) -> tuple[list[int], list[int], list[int]]:
    bounds = levels.bounds
    return bounds.wins.tolist(), (bounds.wins + bounds.losses).tolist(), bounds.anchors.tolist()


def _ranked(table: ScoreTable, place: int, *, kept: bool) -> RankedRow:
    return RankedRow(
        rank=0,  # known when all tables have been seen
        candidate_id=table.candidate_ids[place].as_py(),
        row=int(table.candidate_rows[place]),
        shard=int(table.shards[place]),
        wins=int(table.wins[place]),
        cells=int(table.cells[place]),
        anchors=int(table.anchors[place]),
        mean_gain=float(table.mean_gain[place]),
        kept=kept,
    )
