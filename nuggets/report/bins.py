"""Candidates counted by golden score, as picture and report show them. Pure.

With m anchors there are m + 1 scores, 0/m to m/m. A bin stands around one of them, or around several side by side: its
edges lie between scores, and one of them where the cut parts those that are dropped from those that are kept.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuggets.scores.cuts import Cut, Threshold
from nuggets.scores.selection import ScoreCounts

MOST_BINS = 25
_WIDTH = 60  # characters of a line of the histogram
_BAR = _WIDTH - 22
_NOBODYS_ANCHORS = 20  # where nobody is eligible, an axis with some bins all the same


@dataclass(frozen=True, slots=True)
class ScoreBins:
    """Candidates by golden score; who was dropped early, with cells missing, stands at the highest score possible."""

    anchors: int  # that most candidates are judged on: scores are their shares
    cut: float | None  # the edge between dropped and kept; None for a cut by rank that keeps nobody
    edges: NDArray[np.float64]  # one more than there are bins
    lowest: NDArray[np.float64]  # per bin, the scores that it holds: from this one
    highest: NDArray[np.float64]  # to that one
    kept: NDArray[np.int64]
    dropped: NDArray[np.int64]
    early: NDArray[np.int64]

    @property
    def total(self) -> NDArray[np.int64]:
        """How many candidates each bin holds."""
        return self.kept + self.dropped + self.early


def score_bins(levels: ScoreCounts, kept: NDArray[np.int64], cut: Cut, *, most: int = MOST_BINS) -> ScoreBins:
    """How many candidates of which score a cut keeps and drops, in `most` bins (3 or more) at most.

    `kept` goes with `levels`. Who is judged on nothing has no score, and is in no bin. Where candidates of the same
    score are parted by their mean gain, the cut stands below all of them.
    """
    kept, levels = kept[levels.bounds.anchors > 0], levels.eligible
    bounds = levels.bounds
    anchors = _usual_anchors(levels)
    place = _cut_place(levels, kept, cut, anchors)
    steps = _steps(anchors, place, most)
    edges = (steps - 0.5) / anchors
    if place is not None:
        edges[steps == _nearest_step(anchors, place)] = place
    bins = len(edges) - 1
    # Who is itself an anchor is judged on one less, and its score lies somewhere between those of the others.
    where = np.clip(np.searchsorted(edges, bounds.high, side="right") - 1, 0, bins - 1)
    lowest, highest = steps[:-1] / anchors, (steps[1:] - 1) / anchors
    np.minimum.at(lowest, where, bounds.high)
    np.maximum.at(highest, where, bounds.high)
    complete = bounds.complete
    parts = (kept, np.where(complete, levels.count - kept, 0), np.where(complete, 0, levels.count))
    counts = [np.bincount(where, weights=part, minlength=bins).astype(np.int64) for part in parts]
    return ScoreBins(anchors, place, edges, lowest, highest, *counts)


def _usual_anchors(levels: ScoreCounts) -> int:
    """On how many anchors most candidates are eligible."""
    numbers, place = np.unique(levels.bounds.anchors, return_inverse=True)
    if not len(numbers):
        return _NOBODYS_ANCHORS
    counts = np.bincount(place, weights=levels.count)
    return int(numbers[np.flatnonzero(counts == counts.max())[-1]])


def _cut_place(levels: ScoreCounts, kept: NDArray[np.int64], cut: Cut, anchors: int) -> float | None:
    """Halfway between the highest score that a cut drops and the lowest that it keeps, of all scores there can be."""
    numbers = {anchors, *np.unique(levels.bounds.anchors).tolist()}
    possible = np.unique(np.concatenate([np.arange(number + 1) / number for number in numbers]))
    if isinstance(cut, Threshold):
        dropped = int((possible <= cut.value).sum())
    elif kept.any():
        dropped = int((possible < levels.bounds.low[kept > 0].min()).sum())
    else:
        return None
    bounds = np.concatenate([[-1 / anchors], possible, [1 + 1 / anchors]])
    return float((bounds[dropped] + bounds[dropped + 1]) / 2)


def _nearest_step(anchors: int, place: float) -> int:
    """The scores' boundary, counted from the one below 0, that is nearest to a place."""
    return int(np.rint(place * anchors + 0.5))


def _steps(anchors: int, place: float | None, most: int) -> NDArray[np.int64]:
    """Between which scores bins end: step n lies below score n/m. All but the outer bins hold equally many scores."""
    start = 0 if place is None else _nearest_step(anchors, place)
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
