"""A selection's golden scores as a picture: kept and dropped candidates, and the cut between them. Pure."""

import base64
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nuggets.report.bins import ScoreBins, score_bins
from nuggets.scores.cuts import Cut, Threshold, describe_cut
from nuggets.scores.selection import ScoreCounts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

SIZE = (8.0, 6.0)  # inches
DPI = 100
KEPT, DROPPED, EARLY = "#0072b2", "#9c9c9c", "#f5d98b"  # differ in lightness as much as in colour
_TEXT = 14  # points: readable where the picture is shown half as wide
_FAINT = "#666666"
_TALLEST = 3.0  # times the tallest bar of known scores: a race drops most of a pool into one bar below the cut
_LEAST = 0.01  # of the tallest bar: a bin with few candidates stays visible


def scores_picture(counts: ScoreCounts, kept: NDArray[np.int64], *, run: str, cut: Cut) -> bytes:
    """The figure of `scores_figure` as PNG."""
    png = BytesIO()
    scores_figure(counts, kept, run=run, cut=cut).savefig(png, format="png", dpi=DPI)
    return png.getvalue()


def scores_figure(counts: ScoreCounts, kept: NDArray[np.int64], *, run: str, cut: Cut) -> "Figure":
    """A histogram of golden scores: kept and dropped candidates, and the cut between them.

    `kept` is how many of each of `counts` the cut keeps. Candidates dropped with cells missing count at the
    highest score that they could still reach. The figure belongs to no pyplot state: no display is needed and nothing
    has to be closed.
    """
    from matplotlib.figure import Figure

    bins = score_bins(counts, kept, cut)
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.1, 0.19, 0.87, 0.63))
    _draw_bars(axes, bins)
    if bins.cut is not None:
        _draw_cut(axes, bins.cut, _cut_label(counts, kept, cut))
    axes.set_xlabel("golden score", fontsize=_TEXT)
    axes.set_ylabel("candidates", fontsize=_TEXT)
    axes.tick_params(labelsize=_TEXT, color=_FAINT)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["left", "right", "top"]].set_visible(False)
    figure.legend(loc="lower left", bbox_to_anchor=(0.02, 0.01), ncols=3, fontsize=_TEXT, frameon=False, handlelength=1)
    _fit(figure.text(0.02, 0.97, run, va="top", fontsize=20, fontweight="bold"))
    _fit(figure.text(0.02, 0.9, _outcome(bins, counts, cut), va="top", fontsize=_TEXT, color=_FAINT))
    return figure


def data_address(png: bytes) -> str:
    """A data: URL of a picture, for pages that can't reach the store."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _draw_bars(axes: "Axes", bins: ScoreBins) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    known, tallest = int((bins.kept + bins.dropped).max()), int(bins.total.max())
    top = max(1, min(tallest, int(_TALLEST * known)) if known else tallest)
    middle, width = (bins.edges[:-1] + bins.edges[1:]) / 2, np.diff(bins.edges) * 0.96
    base = np.zeros(len(middle))
    layers = [(bins.kept, KEPT, "kept"), (bins.dropped, DROPPED, "dropped")]
    if bins.early.any():
        layers.append((bins.early, EARLY, "dropped early, at highest possible score"))
    for count, color, label in layers:
        height = np.where(count > 0, np.clip(count, _LEAST * top, np.maximum(top - base, 0)), 0)
        axes.bar(middle, height, width, base, color=color, label=label)
        base += height
    for cut_off in np.flatnonzero(bins.total > top):
        text = f"{short_count(int(bins.total[cut_off]))} ↑"
        axes.text(middle[cut_off], top, text, ha="center", va="bottom", fontsize=_TEXT)
    if not bins.total.any():
        axes.text(0.5, 0.5 * top, "no candidate has a golden score", ha="center", fontsize=_TEXT, color=_FAINT)
    if bins.anchors <= 8:
        axes.set_xticks([wins / bins.anchors for wins in range(bins.anchors + 1)])
    axes.xaxis.set_major_formatter("{x:.2g}")
    axes.set_xlim(float(bins.edges[0]), float(bins.edges[-1]))
    axes.set_ylim(0, 1.2 * top)  # the label of the cut is above all bars
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: short_count(int(count))))


def _draw_cut(axes: "Axes", score: float, label: str) -> None:
    axes.axvline(score, color="#222222", linewidth=2, linestyle="--")
    is_right = score > sum(axes.get_xlim()) / 2
    axes.annotate(
        label,
        (score, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-8 if is_right else 8, 0),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="top",
        fontsize=_TEXT,
    )


def _cut_label(counts: ScoreCounts, kept: NDArray[np.int64], cut: Cut) -> str:
    if isinstance(cut, Threshold):
        return f"cut: above {cut.value:g}"
    bounds = counts.bounds
    lowest = bounds.low[kept > 0].min()
    tied = (bounds.anchors > 0) & bounds.complete & (bounds.low == lowest)
    kept_ties, ties = int(kept[tied].sum()), int(counts.count[tied].sum())
    label = f"lowest kept: {lowest:.3f}"
    return label if kept_ties == ties else f"{label}\n({short_count(kept_ties)} of {short_count(ties)} with this score)"


def _outcome(bins: ScoreBins, counts: ScoreCounts, cut: Cut) -> str:
    scored = int(bins.total.sum())
    outcome = f"{describe_cut(cut)}: {int(bins.kept.sum()):,} of {counts.candidates:,} candidates kept"
    return outcome if scored == counts.candidates else f"{outcome}, {counts.candidates - scored:,} without a score"


def _fit(text: "Text") -> None:
    """Shrink a line that is wider than the figure: a run's name has up to 100 characters."""
    available = 0.96 * SIZE[0] * DPI
    while (width := text.get_window_extent().width) > available:  # again, because glyphs are hinted at each size
        text.set_fontsize(0.98 * float(text.get_fontsize()) * available / width)


def short_count(count: int) -> str:
    """A count in at most three significant digits from 10,000 on: 9,999, 12.3k, 4.5M."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= max(unit, 10**4):
            return f"{float(f'{count / unit:.3g}'):g}{letter}"
    return f"{count:,}"
