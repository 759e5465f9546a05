"""A selection's golden scores as a picture: kept and dropped candidates, and the cut between them. Pure.

Nothing here touches matplotlib's own state: no pyplot, and no setting changed. Fonts, colours, lines and sides are
given with every element instead of being left to somebody's settings, so that the same data give the same bytes.
"""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nuggets.report.bins import ScoreBins, score_bins
from nuggets.scores.cuts import Cut, Threshold, describe_cut
from nuggets.scores.selection import ScoreCounts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDTH, HEIGHT = 800, 600  # pixels; on a telephone half of that, so letters are twice as large as elsewhere
_LEFT = 0.1  # of the width: where the scores begin
_TEXT = 16.0  # points
_DPI = 100
_LINE = 0.6  # points
_BAR = 0.96  # of a bin's width
_KEPT, _DROPPED, _EARLY = "#0072b2", "#9c9c9c", "#f5d98b"  # as far apart in lightness as in colour
_INK, _FAINT = "#222222", "#666666"
_HEADROOM = 1.2  # of the longest bar: the cut's label stands above all bars
_LEAST = 0.01  # of the longest bar: two or three pixels, so that no bin with somebody in it looks empty
_LONGEST = 3.0  # times the longest bar of known scores; what is longer is broken off, and says how many it holds


def scores_picture(levels: ScoreCounts, kept: NDArray[np.int64], *, run: str, cut: Cut) -> bytes:
    """A histogram of golden scores as PNG: who is kept, who is dropped, and where the cut parts them.

    `kept` goes with `levels`. Candidates that were dropped before they met all anchors stand at the highest score that
    they could still have had.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bins = score_bins(levels, kept, cut)
    figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor="white", frameon=True)
    canvas: Any = FigureCanvasAgg(figure)
    fonts = _Fonts.load()
    axes = figure.add_axes((_LEFT, 0.14, 0.98 - _LEFT, 0.57))
    top = _top(bins)
    _draw_frame(axes, fonts, bins, top=top)
    _draw_bars(axes, fonts, bins, top=top)
    if bins.cut is not None:
        _draw_cut(axes, fonts, bins.cut, _cut_label(levels, kept, cut))
    _draw_heading(figure, fonts, run, _outcome(bins, levels, cut))
    _draw_legend(figure, fonts, bins)
    data = BytesIO()
    canvas.print_png(data, metadata={"Software": None})  # its version would change the bytes and nothing else
    return data.getvalue()


def data_address(png: bytes) -> str:
    """A picture as an address that holds all of it, for pages that can't reach the store."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


@dataclass(frozen=True, slots=True)
class _Fonts:
    """matplotlib's own font files: whichever fonts a machine has, the picture is the same."""

    regular: Path
    bold: Path

    @staticmethod
    def load() -> "_Fonts":
        import matplotlib

        folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
        return _Fonts(folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf")

    def text(self, size: float, *, bold: bool = False, color: str = _INK) -> dict[str, Any]:
        """What every text is drawn with: a dollar sign is one, and not the start of a formula."""
        from matplotlib.font_manager import FontProperties

        font = FontProperties(fname=str(self.bold if bold else self.regular), size=size)
        return {"fontproperties": font, "color": color, "parse_math": False, "usetex": False}


def _top(bins: ScoreBins) -> int:
    """How many candidates the longest bar shows.

    A race drops most of a pool just below the cut: all of that drawn, those who are kept could not be seen.
    """
    known = int((bins.kept + bins.dropped).max())
    longest = int(bins.total.max())
    return max(1, min(longest, int(_LONGEST * known)) if known else longest)


def _draw_frame(axes: "Axes", fonts: _Fonts, bins: ScoreBins, *, top: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor("white")
    axes.set_xlim(float(bins.edges[0]), float(bins.edges[-1]))
    axes.set_ylim(0, top * _HEADROOM)
    # Where there are so few scores, or a whole share of them fits, each tick stands at a score that exists.
    parts = next(
        (parts for parts in (5, 4, 3, 2) if bins.anchors % parts == 0), bins.anchors if bins.anchors < 8 else 5
    )
    scores = [part / parts for part in range(parts + 1)]
    rounded = MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]).tick_values(0, top)
    counts = [int(count) for count in rounded if count <= top]
    label = fonts.text(_TEXT)
    axes.set_xticks(scores, [f"{score:.2g}" for score in scores], **label)
    axes.set_yticks(counts, [_short(count) for count in counts], **label)
    axes.set_xlabel("golden score", labelpad=5, loc="center", **label)
    axes.minorticks_off()
    axes.tick_params(axis="both", direction="out", length=5, width=_LINE, color=_FAINT, pad=4)
    axes.tick_params(axis="both", bottom=True, top=False, left=False, right=False)
    axes.tick_params(axis="both", labelbottom=True, labeltop=False, labelleft=True, labelright=False)
    axes.grid(visible=False)
    axes.yaxis.grid(visible=True, color="#e3e3e3", linewidth=_LINE, linestyle="-", alpha=1)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "bottom", color=_FAINT, linewidth=_LINE)


def _draw_bars(axes: "Axes", fonts: _Fonts, bins: ScoreBins, *, top: int) -> None:
    width = np.diff(bins.edges) * _BAR
    left = bins.edges[:-1] + (np.diff(bins.edges) - width) / 2
    base = np.zeros(len(left))
    for count, color in ((bins.kept, _KEPT), (bins.dropped, _DROPPED), (bins.early, _EARLY)):
        height = np.where(count > 0, np.clip(count, _LEAST * top, np.maximum(top - base, 0)), 0)
        axes.bar(left, height, width, base, align="edge", color=color, linewidth=0)
        base += height
    for place in np.flatnonzero(bins.total > top):
        for share in (0.9, 0.925):
            ends = (share * top, (share + 0.03) * top)
            axes.plot((left[place], left[place] + width[place]), ends, color="white", linewidth=2.5, linestyle="-")
        middle = left[place] + width[place] / 2
        number = _short(int(bins.total[place]))
        behind = {"facecolor": _EARLY, "edgecolor": "none", "pad": 2}  # the cut's line may run through it
        axes.text(
            middle, 0.86 * top, number, rotation=90, ha="center", va="top", bbox=behind, zorder=5, **fonts.text(14)
        )
    if not bins.total.any():
        axes.text(0.5, 0.5 * top, "no candidate has a golden score", ha="center", **fonts.text(_TEXT, color=_FAINT))


def _draw_cut(axes: "Axes", fonts: _Fonts, place: float, label: str) -> None:
    axes.axvline(place, color=_INK, linewidth=2, linestyle=(0, (4, 2)), clip_on=False)
    left = place > 0.5
    axes.annotate(
        label,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-8 if left else 8, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        linespacing=1.1,
        **fonts.text(_TEXT),
    )


def _cut_label(levels: ScoreCounts, kept: NDArray[np.int64], cut: Cut) -> str:
    """What the line of the cut means, in one line or two."""
    if isinstance(cut, Threshold):
        return f"cut: above {cut.value:g}"
    bounds = levels.bounds
    lowest = bounds.low[kept > 0].min()
    tied = (bounds.anchors > 0) & bounds.complete & (bounds.low == lowest)
    some, all_of_them = int(kept[tied].sum()), int(levels.count[tied].sum())
    said = f"lowest kept: {lowest:.3f}"
    return said if some == all_of_them else f"{said}\n({_short(some)} of {_short(all_of_them)} that have it)"


def _short(count: int) -> str:
    """A count with three digits that mean something, where there are more than four."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= max(unit, 10**4):
            return f"{float(f'{count / unit:.3g}'):g}{letter}"
    return f"{count:,}"


def _draw_heading(figure: "Figure", fonts: _Fonts, run: str, outcome: str) -> None:
    _draw_fitting(figure, 0.97, run, fonts.text(20, bold=True))
    _draw_fitting(figure, 0.9, outcome, fonts.text(_TEXT, color=_FAINT))
    figure.text(0.02, 0.722, "candidates", va="bottom", **fonts.text(_TEXT))


def _draw_fitting(figure: "Figure", height: float, said: str, font: dict[str, Any]) -> None:
    """A line of text from the left, made smaller if it is too long: a run's name has up to 100 characters."""
    drawn = figure.text(0.02, height, said, va="top", **font)
    while (width := drawn.get_window_extent().width) > 0.96 * WIDTH:
        drawn.set_fontsize(min(0.95, 0.96 * WIDTH / width) * float(drawn.get_fontsize()))


def _draw_legend(figure: "Figure", fonts: _Fonts, bins: ScoreBins) -> None:
    from matplotlib.patches import Patch

    parts = [
        (_KEPT, "kept", bins.kept),
        (_DROPPED, "dropped", bins.dropped),
        (_EARLY, "dropped early, at highest possible", bins.early),
    ]
    shown = [
        Patch(facecolor=color, edgecolor=color, linewidth=0, label=name)
        for color, name, count in parts
        if count.any() or name != parts[-1][1]
    ]
    legend = figure.legend(
        handles=shown,
        loc="upper left",
        bbox_to_anchor=(0.02, 0.835),
        ncols=len(shown),
        prop=fonts.text(_TEXT)["fontproperties"],
        labelcolor=_INK,
        frameon=False,
        handlelength=1,
        handleheight=0.9,
        handletextpad=0.5,
        columnspacing=1.6,
        borderpad=0,
        borderaxespad=0,
    )
    for text in legend.get_texts():
        text.set(usetex=False)


def _outcome(bins: ScoreBins, levels: ScoreCounts, cut: Cut) -> str:
    eligible = int(bins.total.sum())
    said = f"{describe_cut(cut)}: {int(bins.kept.sum()):,} of {levels.candidates:,} candidates kept"
    return said if eligible == levels.candidates else f"{said}, {levels.candidates - eligible:,} without a score"
