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

from nuggets.cuts import Cut, Threshold, describe_cut
from nuggets.report import ScoreBins, score_bins
from nuggets.selection import Levels

if TYPE_CHECKING:  # loading it takes a good part of a second, and most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 800, 450  # pixels
_DPI = 100
_LINE = 0.6  # points
_BAR = 0.96  # of a bin's width
_KEPT, _DROPPED, _EARLY = "#0072b2", "#9c9c9c", "#f5d98b"  # as far apart in lightness as in colour
_INK, _FAINT = "#222222", "#666666"
_HEADROOM = 1.18  # of the longest bar: the cut's label stands above all bars
_LEAST = 0.01  # of the longest bar: two or three pixels, so that no bin with somebody in it looks empty
_LONGEST = 3.0  # times the longest bar of known scores; what is longer is broken off, and says how many it holds


def scores_picture(levels: Levels, kept: NDArray[np.int64], *, run: str, cut: Cut) -> bytes:
    """A histogram of golden scores as PNG: who is kept, who is dropped, and where the cut parts them.

    `kept` goes with `levels`. Candidates that were dropped before they met all anchors stand at the highest score that
    they could still have had.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bins = score_bins(levels, kept)
    figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor="white", frameon=True)
    canvas: Any = FigureCanvasAgg(figure)
    fonts = _Fonts.load()
    axes = figure.add_axes((0.095, 0.125, 0.885, 0.675))
    top = _top(bins)
    _draw_frame(axes, fonts, top=top)
    _draw_bars(axes, fonts, bins, top=top)
    _draw_cut(axes, fonts, levels, kept, cut)
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


def _draw_frame(axes: "Axes", fonts: _Fonts, *, top: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor("white")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, top * _HEADROOM)
    scores = [round(0.1 * step, 1) for step in range(11)]
    rounded = MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]).tick_values(0, top)
    counts = [int(count) for count in rounded if count <= top]
    label = fonts.text(10)
    axes.set_xticks(scores, [f"{score:g}" for score in scores], **label)
    axes.set_yticks(counts, [f"{count:,}" for count in counts], **label)
    axes.set_xlabel("golden score", labelpad=5, loc="center", **label)
    axes.minorticks_off()
    axes.tick_params(axis="both", direction="out", length=3, width=_LINE, color=_FAINT, pad=3)
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
        number = f"{int(bins.total[place]):,}"
        behind = {"facecolor": _EARLY, "edgecolor": "none", "pad": 2}  # the cut's line may run through it
        axes.text(
            middle, 0.86 * top, number, rotation=90, ha="center", va="top", bbox=behind, zorder=5, **fonts.text(10)
        )
    if not bins.total.any():
        axes.text(0.5, 0.5 * top, "no candidate has a golden score", ha="center", **fonts.text(11, color=_FAINT))


def _draw_cut(axes: "Axes", fonts: _Fonts, levels: Levels, kept: NDArray[np.int64], cut: Cut) -> None:
    lowest = levels.standing.low[kept > 0].min(initial=np.inf)
    if isinstance(cut, Threshold):
        place, meaning = cut.value, f"cut: {describe_cut(cut)}"
    elif np.isfinite(lowest):
        place, meaning = float(lowest), f"cut: {describe_cut(cut)}, lowest score kept {lowest:.3f}"
    else:
        return  # a cut by rank that keeps nobody has no place among the scores
    axes.axvline(place, color=_INK, linewidth=1.4, linestyle=(0, (4, 2)), clip_on=False)
    left = place > 0.5
    axes.annotate(
        meaning,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if left else 6, -3),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        **fonts.text(10),
    )


def _draw_heading(figure: "Figure", fonts: _Fonts, run: str, outcome: str) -> None:
    size = 13.0
    title = figure.text(0.02, 0.965, run, va="top", **fonts.text(size, bold=True))
    while title.get_window_extent().width > 0.96 * WIDTH:  # a run's name has up to 100 characters
        size *= 0.95
        title.set_fontsize(size)
    figure.text(0.02, 0.905, outcome, va="top", **fonts.text(10.5, color=_FAINT))
    figure.text(0.02, 0.815, "candidates", va="bottom", **fonts.text(10))


def _draw_legend(figure: "Figure", fonts: _Fonts, bins: ScoreBins) -> None:
    from matplotlib.patches import Patch

    parts = [
        (_KEPT, "kept", bins.kept),
        (_DROPPED, "dropped", bins.dropped),
        (_EARLY, "dropped early, at the highest score possible", bins.early),
    ]
    shown = [
        Patch(facecolor=color, edgecolor=color, linewidth=0, label=name)
        for color, name, count in parts
        if count.any() or name != parts[-1][1]
    ]
    legend = figure.legend(
        handles=shown,
        loc="upper right",
        bbox_to_anchor=(0.98, 0.85),
        ncols=len(shown),
        prop=fonts.text(10)["fontproperties"],
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


def _outcome(bins: ScoreBins, levels: Levels, cut: Cut) -> str:
    judged = int(bins.total.sum())
    said = f"{describe_cut(cut)}: {int(bins.kept.sum()):,} of {levels.candidates:,} candidates kept"
    return said if judged == levels.candidates else f"{said}, {levels.candidates - judged:,} without a score"
