"""The picture of a selection's golden scores: what its bars count, and that everything fits."""

import base64
import struct
import subprocess
import sys

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nuggets.report.bins import score_bins
from nuggets.report.figure import DROPPED, EARLY, KEPT, data_address, scores_figure, scores_picture, short_count
from nuggets.scores.bounds import ScoreBounds
from nuggets.scores.cuts import Cut, Threshold, TopFraction, TopK
from nuggets.scores.selection import ScoreCounts

Level = tuple[int, int, int, int, int]  # candidates, wins, cells, anchors, kept


def pool(*rows: Level) -> tuple[ScoreCounts, NDArray[np.int64]]:
    count, wins, cells, anchors, kept = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    wins, cells, anchors = (values.astype(np.int32) for values in (wins, cells, anchors))
    return ScoreCounts(ScoreBounds(wins, cells - wins, anchors), count), kept


# The best score but two has 150 candidates, of which the cut keeps 40.
FULL = [(10 * (20 - abs(12 - wins)), wins, 20, 20, {17: 40, 18: 140, 19: 130}.get(wins, 0)) for wins in range(20)]
POOLS: dict[str, tuple[list[Level], Cut]] = {
    "ties, of which the cut keeps some": (FULL, TopK(310)),
    "all kept": ([(7, 3, 4, 4, 7), (2, 4, 4, 4, 2)], TopFraction(1.0)),
    "none kept": ([(7, 3, 4, 4, 0), (2, 1, 4, 4, 0)], Threshold(0.9)),
    "none kept by rank": ([(7, 3, 4, 4, 0)], TopFraction(0.0)),
    "one candidate": ([(1, 1, 4, 4, 1)], TopK(1)),
    "dropped early": ([(5, 90, 100, 100, 5), (900, 3, 23, 100, 0), (40, 10, 40, 100, 0)], TopK(5)),
    "dropped early, no score known": ([(900, 3, 53, 100, 0)], Threshold(0.6)),
    "no scores": ([(3, 0, 0, 0, 0)], TopK(2)),
    "some without a score": ([(3, 0, 0, 0, 0), (2, 3, 4, 4, 1)], TopK(1)),
    "ten million": ([(10**7 - 500_000, 9, 100, 100, 0), (500_000, 60, 100, 100, 500_000)], TopFraction(0.05)),
    "thresholds at the edge": ([(1, 0, 4, 4, 0), (9, 4, 4, 4, 9)], Threshold(0.0)),
}


@pytest.fixture(params=POOLS.values(), ids=POOLS)
def case(request: pytest.FixtureRequest) -> tuple[ScoreCounts, NDArray[np.int64], Cut]:
    rows, cut = request.param
    return (*pool(*rows), cut)


def bars(figure: Figure, color: str) -> list[tuple[float, float, float]]:
    """Left edge, right edge and height of the bars of a colour that are not empty."""
    patches = [patch for patch in figure.axes[0].patches if matplotlib.colors.to_hex(patch.get_facecolor()) == color]
    return [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height()) for bar in patches if bar.get_height()]


def cut_line(figure: Figure) -> float:
    (line,) = figure.axes[0].lines
    return float(line.get_xdata()[0])


def test_every_pool_is_drawn_with_a_bar_where_it_has_candidates(case):
    counts, kept, cut = case
    png = scores_picture(counts, kept, run="first", cut=cut)
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (800, 600)
    bins, figure = score_bins(counts, kept, cut), scores_figure(counts, kept, run="first", cut=cut)
    for color, count in ((KEPT, bins.kept), (DROPPED, bins.dropped), (EARLY, bins.early)):
        assert len(bars(figure, color)) == (count > 0).sum()


def test_bars_add_up_to_the_candidates():
    counts, kept = pool(*FULL)
    figure = scores_figure(counts, kept, run="first", cut=TopK(310))
    assert sum(height for *_, height in bars(figure, KEPT)) == kept.sum() == 310
    assert sum(height for *_, height in bars(figure, DROPPED)) == counts.candidates - 310


def test_a_bar_far_taller_than_the_known_scores_is_cut_off_and_shows_its_count():
    counts, kept = pool(*POOLS["dropped early"][0])
    figure = scores_figure(counts, kept, run="first", cut=TopK(5))
    assert (
        max(height for *_, height in bars(figure, EARLY)) == 15 == 3 * max(height for *_, height in bars(figure, KEPT))
    )
    assert {"900 ↑", "40 ↑"} <= {text.get_text() for text in figure.axes[0].texts}


def test_a_small_bar_beside_a_large_one_stays_visible():
    counts, kept = pool((1_000_000, 20, 100, 100, 0), (1, 80, 100, 100, 1))
    ((*_, height),) = bars(scores_figure(counts, kept, run="first", cut=TopK(1)), KEPT)
    assert height == 10_000


SIXTEENTHS = [(8, wins, 16, 16) for wins in range(17)]


@pytest.mark.parametrize(
    ("cut", "kept_from"), [(Threshold(0.5), 9), (Threshold(0.0), 1), (Threshold(0.97), 16), (TopK(80), 7)]
)
def test_bars_of_dropped_stand_left_of_the_cut_and_bars_of_kept_right_of_it(cut: Cut, kept_from: int):
    counts, kept = pool(*((*row, 8 if row[1] >= kept_from else 0) for row in SIXTEENTHS))
    figure = scores_figure(counts, kept, run="first", cut=cut)
    dropped, right = bars(figure, DROPPED), bars(figure, KEPT)
    assert (len(dropped), len(right)) == (kept_from, 17 - kept_from)
    assert max(end for _, end, _ in dropped) < cut_line(figure) < min(start for start, *_ in right)
    for wins, (start, end, _) in enumerate([*dropped, *right]):
        assert start < wins / 16 < end


@pytest.mark.parametrize("run", ["first", "W" * 100])
@pytest.mark.parametrize("anchors", [1, 13, 260])
def test_everything_fits_into_the_picture(run: str, anchors: int):
    million = 1_234_567
    rows = [(million, wins, anchors, anchors, 0) for wins in range(anchors)]
    counts, kept = pool(*rows, (9 * million, anchors, anchors, anchors, million), (5, 0, 0, 0, 0))
    figure = scores_figure(counts, kept, run=run, cut=TopK(million))
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 8 and box.y1 <= 6


def test_nothing_is_loaded_before_something_is_drawn_and_no_display_is_needed():
    program = """
import sys
import numpy as np
import nuggets.steps.publish
from nuggets.scores.cuts import TopK
from nuggets.report.figure import scores_picture
from nuggets.scores.selection import ScoreCounts
from nuggets.scores.bounds import ScoreBounds
loaded = ["matplotlib" in sys.modules]
one = np.array([1], dtype=np.int32)
count = one.astype(np.int64)
scores_picture(ScoreCounts(ScoreBounds(one, one, one + one), count), count, run="r", cut=TopK(1))
print(*loaded, *(name in sys.modules for name in ("matplotlib", "matplotlib.pyplot", "torch")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.stdout.split(), done.stderr) == (["False", "True", "False", "False"], "")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9_999, "9,999"), (12_345, "12.3k"), (4_500_000, "4.5M"), (10**10, "10G")]
)
def test_large_counts_are_shortened(count: int, text: str):
    assert short_count(count) == text


def test_a_data_address_holds_the_whole_picture():
    scheme, _, content = data_address(b"\x89PNG").partition(",")
    assert scheme == "data:image/png;base64" and base64.b64decode(content) == b"\x89PNG"
