"""Which candidates a cut keeps, and in which order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuggets.cuts import Cut, Threshold, TopFraction, TopK, cut_from_options, cut_name, describe_cut, kept_count
from nuggets.errors import UsageError
from nuggets.golden import GoldenTable
from nuggets.selection import ranking, select

NAN = float("nan")


def table(*rows: tuple[str, int, int, float]) -> GoldenTable:
    """A table of (id, wins, anchors, mean gain)."""
    ids, wins, anchors, gains = zip(*rows, strict=True) if rows else ((), (), (), ())
    return GoldenTable(
        tuple(ids),
        np.arange(len(ids), dtype=np.int64),
        np.array(wins, dtype=np.int32),
        np.array(anchors, dtype=np.int32),
        np.array(gains, dtype=np.float64),
    )


def ids(found: GoldenTable, order: np.ndarray) -> list[str]:
    return [found.candidate_ids[index] for index in order]


TEN = table(
    ("e", 5, 10, 0.1),
    ("a", 5, 10, 0.3),
    ("c", 5, 10, 0.1),
    ("f", 9, 10, -2.0),
    ("b", 5, 10, NAN),
    ("d", 0, 10, 4.0),
    ("h", 10, 10, 0.0),
    ("g", 5, 10, -7.0),
    ("j", 0, 0, 0.0),
    ("i", 4, 8, 0.2),
)
BEST_FIRST = ["h", "f", "a", "i", "c", "e", "g", "b", "d", "j"]


def test_order_is_by_score_then_mean_gain_then_id_and_an_unknown_gain_is_last_among_equals():
    assert ids(TEN, ranking(TEN)) == BEST_FIRST


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        (Threshold(0.5), ["h", "f"]),
        (Threshold(0.49), ["h", "f", "a", "i", "c", "e", "g", "b"]),
        (Threshold(0.9), ["h"]),
        (Threshold(1.0), []),
        (Threshold(0.0), ["h", "f", "a", "i", "c", "e", "g", "b"]),
        (TopK(1), ["h"]),
        (TopK(4), ["h", "f", "a", "i"]),
        (TopK(10), BEST_FIRST),
        (TopK(11), BEST_FIRST),
        (TopFraction(0.0), []),
        (TopFraction(0.05), ["h"]),
        (TopFraction(0.3), ["h", "f", "a"]),
        (TopFraction(0.31), ["h", "f", "a", "i"]),
        (TopFraction(1.0), BEST_FIRST),
    ],
)
def test_a_cut_keeps_these_of_ten(cut: Cut, kept: list[str]):
    assert ids(TEN, select(TEN, cut)) == kept


@pytest.mark.parametrize("anchors", [3, 7, 10, 20, 100, 1000])
def test_a_score_that_equals_the_threshold_is_not_above_it(anchors: int):
    for wins in range(anchors + 1):
        found = table(("x", wins, anchors, 0.0))
        assert len(select(found, Threshold(wins / anchors))) == 0
        assert len(select(found, Threshold(np.nextafter(wins / anchors, -1)))) == 1


@pytest.mark.parametrize(
    ("fraction", "candidates", "kept"),
    [
        (0.05, 40, 2),
        (0.05, 41, 3),
        (0.29, 100, 29),  # 28.999999999999996 in floating point
        (0.07, 100, 7),  # 7.000000000000001 in floating point
        (5 / 7, 7, 5),
        (1e-9, 10, 1),
        (0.0, 10, 0),
        (0.0, 0, 0),
        (0.5, 0, 0),
        (1.0, 10, 10),
        (0.999, 10, 10),
        (0.05, 52_002, 2601),
    ],
)
def test_a_fraction_is_rounded_up_to_a_whole_candidate(fraction: float, candidates: int, kept: int):
    assert kept_count(TopFraction(fraction), candidates) == kept


@given(st.integers(1, 1000), st.integers(1, 10_000))
@settings(deadline=None)
def test_a_fraction_in_thousandths_keeps_what_whole_numbers_say(thousandths: int, candidates: int):
    assert kept_count(TopFraction(thousandths / 1000), candidates) == -(-thousandths * candidates // 1000)


@pytest.mark.parametrize("cut", [Threshold(0.5), TopK(3), TopFraction(0.5)])
def test_an_empty_table_has_an_empty_selection(cut: Cut):
    assert select(table(), cut).tolist() == []


SCORED = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(4, 5),
        st.sampled_from([NAN, -1.0, 0.0, 0.5, -0.0]),
    ),
    max_size=30,
).map(lambda rows: table(*((f"{(number * 7) % 31:02d}", *row) for number, row in enumerate(rows))))
CUTS = st.one_of(
    st.floats(0, 1).map(Threshold), st.integers(1, 40).map(TopK), st.floats(0, 1).map(TopFraction)
)  # fmt: skip


@given(SCORED, CUTS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_selection_does_not_depend_on_the_order_of_rows(found: GoldenTable, cut: Cut, random):
    order = list(range(len(found.candidate_ids)))
    random.shuffle(order)
    shuffled = GoldenTable(
        tuple(found.candidate_ids[index] for index in order),
        found.candidate_rows[order],
        found.wins[order],
        found.anchors[order],
        found.mean_gain[order],
    )
    assert ids(shuffled, select(shuffled, cut)) == ids(found, select(found, cut))


@given(SCORED)
@settings(deadline=None)
def test_a_ranking_holds_every_position_once_and_scores_never_rise(found: GoldenTable):
    order = ranking(found)
    assert sorted(order.tolist()) == list(range(len(found.candidate_ids)))
    assert (np.diff(found.golden_score[order]) <= 0).all()


@given(SCORED, st.floats(0, 1), st.floats(0, 1), st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None)
def test_a_stricter_cut_keeps_a_beginning_of_what_a_laxer_one_keeps(
    found: GoldenTable, one: float, other: float, few: int, many: int
):
    pairs = [
        (Threshold(max(one, other)), Threshold(min(one, other))),
        (TopFraction(min(one, other)), TopFraction(max(one, other))),
        (TopK(min(few, many)), TopK(max(few, many))),
    ]
    for strict, lax in pairs:
        less, more = select(found, strict).tolist(), select(found, lax).tolist()
        assert more[: len(less)] == less


@given(SCORED, st.floats(0, 1))
@settings(deadline=None)
def test_a_threshold_keeps_exactly_the_scores_above_it(found: GoldenTable, value: float):
    above = [index for index, score in enumerate(found.golden_score) if score > value]
    assert sorted(select(found, Threshold(value)).tolist()) == above


@pytest.mark.parametrize(
    ("cut", "name", "words"),
    [
        (Threshold(0.85), "threshold-0.85", "golden score above 0.85"),
        (Threshold(1.0), "threshold-1.0", "golden score above 1"),
        (TopK(100), "top-k-100", "best 100"),
        (TopFraction(0.05), "top-fraction-0.05", "best 5 %"),
        (TopFraction(0.1 + 0.2), "top-fraction-0.30000000000000004", "best 30 %"),
    ],
)
def test_a_cut_has_one_name_and_a_description(cut: Cut, name: str, words: str):
    assert cut_name(cut) == name
    assert describe_cut(cut) == words


@given(st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_two_cuts_never_share_a_folder(one: float, other: float):
    assert (cut_name(TopFraction(one)) == cut_name(TopFraction(other))) == (TopFraction(one) == TopFraction(other))


def test_options_make_one_cut_or_none():
    assert cut_from_options(None, None, None) is None
    assert cut_from_options(0, None, None) == Threshold(0.0)
    assert cut_from_options(None, 3, None) == TopK(3)
    assert cut_from_options(None, None, 1) == TopFraction(1.0)
    with pytest.raises(UsageError, match="^threshold=0.5, top_fraction=0.5: give one cut, not 2$"):
        cut_from_options(0.5, None, 0.5)
    with pytest.raises(UsageError, match="^top_k=0 is out of range: allowed is 1 or more$"):
        cut_from_options(None, 0, None)
