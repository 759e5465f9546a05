"""Keys that compare as candidates rank."""

import itertools

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nuggets.examples import EXAMPLE_ID_LENGTH
from nuggets.scores.golden import ScoreTable
from nuggets.scores.ranking import KEY_BYTES, rank_keys, score_keys

NAN = float("nan")
Row = tuple[str, int, int, int, float]


def table(rows: list[Row]) -> ScoreTable:
    """Of rows of (id, wins, cells, anchors, mean gain)."""
    ids, wins, cells, anchors, gains = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return ScoreTable(
        candidate_ids=pa.array(ids, pa.string()),
        candidate_rows=np.arange(len(rows), dtype=np.int64),
        shards=np.zeros(len(rows), dtype=np.int32),
        wins=np.array(wins, dtype=np.int32),
        cells=np.array(cells, dtype=np.int32),
        anchors=np.array(anchors, dtype=np.int32),
        mean_gain=np.array(gains, dtype=np.float64),
    )


def place_of(row: Row) -> tuple[float, float, float, str]:
    """The order in plain words: highest possible score, then lowest, then gain with an unknown one last, then id."""
    key, wins, cells, anchors, gain = row
    low = wins / max(1, anchors)
    high = (wins + anchors - cells) / anchors if anchors else -1  # judged on nothing: last
    return -high, -low, float("inf") if gain != gain else -gain, key


def ranked(rows: list[Row]) -> list[str]:
    keys = rank_keys(table(rows))
    assert keys.dtype == f"S{KEY_BYTES}"
    assert keys.shape == (len(rows),)
    return [rows[place][0] for place in np.argsort(keys)]


def test_the_order_of_some_candidates():
    rows = [
        ("aa", 5, 10, 10, -0.5),
        ("ab", 5, 10, 10, 0.25),
        ("ac", 5, 10, 10, NAN),
        ("ad", 5, 10, 10, 0.25),
        ("ae", 5, 10, 10, 5e-324),
        ("af", 5, 10, 10, 0.0),
        ("ag", 5, 10, 10, -0.0),
        ("ah", 5, 10, 10, -5e-324),
        ("ai", 9, 10, 10, -99.0),
        ("aj", 4, 9, 10, NAN),  # could still reach 0.5, and so could the next, which has shown less
        ("ak", 0, 5, 10, NAN),
        ("al", 0, 0, 0, 0.0),
        ("am", 4, 8, 8, 0.5),
        ("an", 4, 10, 10, 99.0),
    ]
    assert ranked(rows) == ["ai", "am", "ab", "ad", "ae", "af", "ag", "ah", "aa", "ac", "aj", "ak", "an", "al"]


def test_no_candidates_have_no_keys():
    assert ranked([]) == []


GAINS = st.sampled_from([NAN, 0.0, -0.0, 5e-324, -5e-324, 1e-310, 1e300, -1e300]) | st.floats(-9, 9)
ROWS = st.lists(
    st.tuples(
        st.text("0123456789abcdef", min_size=EXAMPLE_ID_LENGTH, max_size=EXAMPLE_ID_LENGTH),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 2),
        GAINS,
    ),
    unique_by=lambda row: row[0],
    max_size=25,
).map(lambda rows: [(key, won, won + lost, won + lost + left, gain) for key, won, lost, left, gain in rows])


@given(ROWS)
def test_keys_are_in_the_order_of_score_then_gain_then_id(rows):
    assert ranked(rows) == [row[0] for row in sorted(rows, key=place_of)]


@given(ROWS)
def test_keys_compare_alike_as_bytes_and_in_arrays(rows):
    keys = rank_keys(table(rows))
    for one, other in itertools.product(keys[:6], repeat=2):
        assert (bytes(one) < bytes(other)) == bool(np.array([one])[0] < np.array([other])[0])
    assert (keys > b"").all()
    assert (keys < b"\xff" * KEY_BYTES).all()


@given(ROWS)
def test_score_keys_are_the_beginning_of_rank_keys(rows):
    found = table(rows)
    scores = score_keys(found.bounds)
    assert [bytes(key).ljust(16, b"\0") for key in scores] == [bytes(key)[:16] for key in rank_keys(found)]
