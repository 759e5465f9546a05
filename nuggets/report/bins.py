"""Candidates counted by golden score, as figure and report show them. Pure.

With m anchors there are m + 1 scores, 0/m to m/m. A bin holds one score or several adjacent ones: its edges lie between
scores, and one edge lies between dropped and kept candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuggets.scores.cuts import Cut, Threshold
from nuggets.scores.selection import ScoreCounts

MOST_BINS = 25
_WIDTH = 60  # characters of a line of the histogram
_BAR = _WIDTH - 22
_ANCHORS_WITHOUT_SCORES = 20  # the axis of a pool in which no candidate has a score


@dataclass(frozen=True, slots=True)
class ScoreBins:
    """Candidates by golden score. Those dropped early, with cells missing, count at their highest possible score."""

    anchors: int  # of most candidates: scores are multiples of 1/anchors
    cut: float | None  # the edge between dropped and kept; None for a cut by rank that keeps no candidate
    edges: NDArray[np.float64]  # one more than there are bins
    lowest: NDArray[np.float64]  # lowest score of each bin
    highest: NDArray[np.float64]  # highest score of each bin
    kept: NDArray[np.int64]
    dropped: NDArray[np.int64]
    early: NDArray[np.int64]

    @property
    def total(self) -> NDArray[np.int64]:
        """Number of candidates of each bin."""
        return self.kept + self.dropped + self.early


def score_bins(counts: ScoreCounts, kept: NDArray[np.int64], cut: Cut, *, most: int = MOST_BINS) -> ScoreBins:
    """Count kept and dropped candidates by score, in at most `most` bins (3 or more).

    `kept` is how many of each of `counts` the cut keeps. Candidates without a score are in no bin. Where mean gain
    decides between candidates of one score, the cut is drawn below that score.
    """
    kept, counts = kept[counts.bounds.anchors > 0], counts.eligible
    bounds = counts.bounds
    anchors = _usual_anchors(counts)
    cut_edge = _cut_edge(counts, kept, cut, anchors)
    steps = _steps(anchors, cut_edge, most)
    edges = (steps - 0.5) / anchors
    if cut_edge is not None:
        edges[steps == _nearest_step(anchors, cut_edge)] = cut_edge
    bins = len(edges) - 1
    # A candidate that is itself an anchor has one anchor less, so that its score lies between those of the others.
    bin_of = np.clip(np.searchsorted(edges, bounds.high, side="right") - 1, 0, bins - 1)
    lowest, highest = steps[:-1] / anchors, (steps[1:] - 1) / anchors
    np.minimum.at(lowest, bin_of, bounds.high)
    np.maximum.at(highest, bin_of, bounds.high)
    dropped = np.where(bounds.complete, counts.count - kept, 0)
    early = np.where(bounds.complete, 0, counts.count)
    in_bins = [np.bincount(bin_of, weights=part, minlength=bins).astype(np.int64) for part in (kept, dropped, early)]
    return ScoreBins(anchors, cut_edge, edges, lowest, highest, *in_bins)


def _usual_anchors(counts: ScoreCounts) -> int:
    """The number of anchors that most candidates have."""
    numbers, index = np.unique(counts.bounds.anchors, return_inverse=True)
    if not len(numbers):
        return _ANCHORS_WITHOUT_SCORES
    candidates = np.bincount(index, weights=counts.count)
    return int(numbers[np.flatnonzero(candidates == candidates.max())[-1]])


def _cut_edge(counts: ScoreCounts, kept: NDArray[np.int64], cut: Cut, anchors: int) -> float | None:
    """Halfway between the highest score that a cut drops and the lowest that it keeps, of all possible scores."""
    numbers = {anchors, *np.unique(counts.bounds.anchors).tolist()}
    possible = np.unique(np.concatenate([np.arange(number + 1) / number for number in numbers]))
    if isinstance(cut, Threshold):
        dropped = int((possible <= cut.value).sum())
    elif kept.any():
        dropped = int((possible < counts.bounds.low[kept > 0].min()).sum())
    else:
        return None
    scores = np.concatenate([[-1 / anchors], possible, [1 + 1 / anchors]])
    return float((scores[dropped] + scores[dropped + 1]) / 2)


def _nearest_step(anchors: int, edge: float) -> int:
    """The number of the boundary between scores that is nearest to an edge; boundary 0 lies below score 0."""
    return int(np.rint(edge * anchors + 0.5))


def _steps(anchors: int, cut_edge: float | None, most: int) -> NDArray[np.int64]:
    """The boundaries at which bins end; boundary n lies below score n/m. All but the outer bins are equally wide."""
    start = 0 if cut_edge is None else _nearest_step(anchors, cut_edge)
    width = max(1, -(-(anchors + 1) // most))
    while True:
        inner = np.arange(start % width, anchors + 1, width)
        steps = np.unique(np.concatenate([[0], inner, [anchors + 1]]))
        if len(steps) <= most + 1:
            return steps
        width += 1


def histogram(bins: ScoreBins) -> str:
    """Candidates by golden score as text, at most 60 characters wide: `#` kept, `.` dropped, `:` dropped early."""
    total = bins.total
    scale = _BAR / max(1, int(total.max()))
    used = np.flatnonzero(total)
    lines = [f"{'score':<11} {'examples':>9} # kept, . dropped"]
    if bins.early.any():
        lines.append(f"{'':<22}: dropped early, at the highest score"[:_WIDTH])
    for index in range(int(used[0]), int(used[-1]) + 2) if len(used) else []:
        if bins.edges[index] == bins.cut:
            lines.append("cut " + "-" * (_WIDTH - 4))
        if index > used[-1]:
            break
        bar, drawn = "", 0.0
        for count, mark in ((bins.kept, "#"), (bins.dropped, "."), (bins.early, ":")):
            drawn += int(count[index]) * scale
            bar += mark * (int(np.ceil(drawn - 1e-9)) - len(bar))
        label = f"{bins.lowest[index]:.3f}"
        if (end := f"{bins.highest[index]:.3f}") != label:
            label += f"-{end}"
        lines.append(f"{label:<11} {total[index]:>9} {bar}".rstrip())
    return "\n".join(lines)
