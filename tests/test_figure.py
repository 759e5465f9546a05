"""The picture of a selection's golden scores: what it counts, that it is always the same, what it leaves alone."""

import base64
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from nuggets.report.bins import score_bins
from nuggets.report.figure import HEIGHT, WIDTH, data_address, scores_picture
from nuggets.scores.bounds import ScoreBounds
from nuggets.scores.cuts import Cut, Threshold, TopFraction, TopK
from nuggets.scores.selection import ScoreCounts

KEPT, DROPPED, EARLY = "#0072b2", "#9c9c9c", "#f5d98b"
Level = tuple[int, int, int, int, int]  # candidates, wins, cells, anchors, kept


def pool(*rows: Level) -> tuple[ScoreCounts, NDArray[np.int64]]:
    count, wins, cells, anchors, kept = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    wins, cells, anchors = (values.astype(np.int32) for values in (wins, cells, anchors))
    return ScoreCounts(ScoreBounds(wins, cells - wins, anchors), count), kept


FULL = [(10 * (20 - abs(12 - wins)), wins, 20, 20, 0 if wins < 17 else 150 if wins > 17 else 40) for wins in range(20)]
POOLS: dict[str, tuple[list[Level], Cut]] = {
    "ties, of which the cut keeps some": (FULL, TopK(340)),
    "all kept": ([(7, 3, 4, 4, 7), (2, 4, 4, 4, 2)], TopFraction(1.0)),
    "none kept": ([(7, 3, 4, 4, 0), (2, 1, 4, 4, 0)], Threshold(0.9)),
    "none kept by rank": ([(7, 3, 4, 4, 0)], TopFraction(0.0)),
    "one candidate": ([(1, 1, 4, 4, 1)], TopK(1)),
    "dropped early": ([(5, 90, 100, 100, 5), (900, 3, 23, 100, 0), (40, 10, 40, 100, 0)], TopK(5)),
    "dropped early, nobody known": ([(900, 3, 53, 100, 0)], Threshold(0.6)),
    "nobody judged": ([(3, 0, 0, 0, 0)], TopK(2)),
    "some not judged": ([(3, 0, 0, 0, 0), (2, 3, 4, 4, 1)], TopK(1)),
    "ten million": ([(10**7 - 500_000, 9, 100, 100, 0), (500_000, 60, 100, 100, 500_000)], TopFraction(0.05)),
    "thresholds at the edge": ([(1, 0, 4, 4, 0), (9, 4, 4, 4, 9)], Threshold(0.0)),
}


@pytest.fixture(params=POOLS.values(), ids=POOLS)
def case(request: pytest.FixtureRequest) -> tuple[ScoreCounts, NDArray[np.int64], Cut]:
    rows, cut = request.param
    return (*pool(*rows), cut)


def chunks(png: bytes) -> dict[str, bytes]:
    """A PNG's parts by their names."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        found[png[place + 4 : place + 8].decode()] = png[place + 8 : place + 8 + length]
        place += 12 + length
    return found


def pixels(png: bytes) -> NDArray[np.uint8]:
    from io import BytesIO

    from matplotlib.image import imread

    return (imread(BytesIO(png), format="png")[:, :, :3] * 255).round().astype(np.uint8)


def colored(png: bytes, color: str) -> NDArray[np.bool_]:
    """Which pixels below the legend are of a colour."""
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return (pixels(png)[130:] == wanted).all(axis=2)


def test_every_pool_gives_a_small_png_of_the_right_size_the_same_every_time(case):
    levels, kept, cut = case
    png = scores_picture(levels, kept, run="first", cut=cut)
    parts = chunks(png)
    assert struct.unpack(">II", parts["IHDR"][:8]) == (WIDTH, HEIGHT)
    assert set(parts) == {"IHDR", "pHYs", "IDAT", "IEND"}  # no time and no versions
    assert 5_000 < len(png) < 60_000
    assert scores_picture(levels, kept, run="first", cut=cut) == png


def test_kept_dropped_and_dropped_early_have_a_colour_each(case):
    levels, kept, cut = case
    bins = score_bins(levels, kept, cut)
    png = scores_picture(levels, kept, run="first", cut=cut)
    for color, count in ((KEPT, bins.kept), (DROPPED, bins.dropped), (EARLY, bins.early)):
        assert (colored(png, color).sum() > 50) == count.any()  # some are at the edges of letters


def test_a_race_leaves_the_kept_to_be_seen():
    """Nine in ten candidates stand in one bar: it is broken off, so that the five kept ones are not two pixels high."""
    levels, kept = pool(*POOLS["dropped early"][0])
    png = scores_picture(levels, kept, run="first", cut=TopK(5))
    assert colored(png, KEPT).any(axis=1).sum() > 60  # pixels, from the axis up


def test_a_small_bar_beside_a_large_one_is_not_lost():
    levels, kept = pool((1_000_000, 20, 100, 100, 0), (1, 80, 100, 100, 1))
    assert colored(scores_picture(levels, kept, run="first", cut=TopK(1)), KEPT).any()


SIXTEENTHS = [(8, wins, 16, 16) for wins in range(17)]


@pytest.mark.parametrize("cut", [Threshold(0.5), Threshold(0.0), Threshold(0.97), TopK(80)])
def test_bars_of_dropped_stand_left_of_the_cut_and_bars_of_kept_right_of_it(cut: Cut):
    if isinstance(cut, Threshold):
        kept_from = next(wins for wins in range(17) if wins / 16 > cut.value)
    else:
        kept_from = 7
    levels, kept = pool(*((*row, 8 if row[1] >= kept_from else 0) for row in SIXTEENTHS))
    png = scores_picture(levels, kept, run="first", cut=cut)
    dropped, kept_columns = bars(png, DROPPED), bars(png, KEPT)
    assert dropped.max() <= line_of_the_cut(png) <= kept_columns.min()
    columns = np.union1d(dropped, kept_columns)
    gaps = columns[:-1][np.diff(columns) > 1]
    assert len(gaps) >= 15 and np.ptp(np.diff(gaps)) <= 5  # a bar for each score, all equally wide


def bars(png: bytes, color: str) -> NDArray[np.int64]:
    """The columns in which bars of a colour stand."""
    return np.flatnonzero(colored(png, color)[170:375].sum(axis=0) > 20)


def line_of_the_cut(png: bytes) -> float:
    """The column in which the dashed line stands."""
    dark = (pixels(png)[180:510] < 60).all(axis=2).sum(axis=0)
    return float(np.flatnonzero(dark > 150).mean())


def test_a_bar_stands_around_its_score():
    levels, kept = pool((9, 2, 4, 4, 0), (9, 4, 4, 4, 9))
    png = scores_picture(levels, kept, run="first", cut=TopK(9))
    middles = [bars(png, color).mean() for color in (DROPPED, KEPT)]
    left, width = 0.1 * WIDTH, 0.88 * WIDTH  # five scores: the axis goes from -1/8 to 9/8
    assert middles == pytest.approx([left + width * 0.5, left + width * 0.9], abs=2)
    assert line_of_the_cut(png) == pytest.approx(left + width * 0.8, abs=2)


def test_letters_can_be_read_where_the_picture_is_half_as_wide():
    """The digits of the axis are 15 pixels high: more than 7 at a width of 390."""
    levels, kept = pool((9, 2, 4, 4, 0), (9, 4, 4, 4, 9))
    labels = (pixels(scores_picture(levels, kept, run="first", cut=TopK(9)))[525:552] < 100).all(axis=2)
    assert np.ptp(np.flatnonzero(labels.any(axis=1))) + 1 >= 15


@pytest.mark.parametrize("anchors", [1, 2, 3, 4, 5, 7, 8, 13, 16, 50, 100, 260])
def test_a_long_outcome_and_long_numbers_stay_within_the_picture(anchors: int):
    million = 1_234_567
    rows = [(million, wins, anchors, anchors, 0) for wins in range(anchors)]
    levels, kept = pool(*rows, (9 * million, anchors, anchors, anchors, million), (5, 0, 0, 0, 0))
    png = pixels(scores_picture(levels, kept, run="W" * 100, cut=TopK(million)))
    assert (png[:, -8:] == 255).all() and (png[:, :8] == 255).all() and (png[-4:] == 255).all()


def test_a_name_is_drawn_as_it_is_and_a_long_one_is_made_to_fit():
    levels, kept = pool((3, 2, 4, 4, 3))
    picture = pixels(scores_picture(levels, kept, run="W" * 100, cut=TopK(3)))
    assert (picture[:75, -12:] == 255).all()
    assert scores_picture(levels, kept, run="a$x^2$", cut=TopK(3))  # no formula


def test_somebodys_settings_change_nothing_and_are_not_changed():
    import matplotlib

    levels, kept = pool(*FULL)
    expected = scores_picture(levels, kept, run="first", cut=TopK(340))
    theirs = {
        "font.size": 30, "font.family": "serif", "axes.grid": True, "axes.facecolor": "black", "text.color": "white",
        "figure.facecolor": "black", "figure.dpi": 40, "xtick.labelsize": 4, "axes.spines.top": True,
        "xtick.minor.visible": True, "legend.frameon": True, "lines.linewidth": 9, "text.usetex": True,
    }  # fmt: skip
    with matplotlib.rc_context(theirs):
        before = dict(matplotlib.rcParams)
        assert scores_picture(levels, kept, run="first", cut=TopK(340)) == expected
        assert dict(matplotlib.rcParams) == before


def test_several_threads_draw_at_once():
    levels, kept = pool(*FULL)
    expected = scores_picture(levels, kept, run="first", cut=TopK(340))
    with ThreadPoolExecutor(4) as threads:
        drawn = threads.map(lambda _: scores_picture(levels, kept, run="first", cut=TopK(340)), range(12))
        assert set(drawn) == {expected}


def test_nothing_is_loaded_before_something_is_drawn_and_never_pyplot():
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


def test_an_address_holds_the_whole_picture():
    address = data_address(b"\x89PNG")
    assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", address)
    assert base64.b64decode(address.partition(",")[2]) == b"\x89PNG"
