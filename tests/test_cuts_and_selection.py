"""Which candidates a cut keeps, in which order, and what is published of it."""

import hashlib
import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.errors import UsageError
from nuggets.examples import Example, example_id
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.shards import Pool, read_records
from nuggets.runs.manifest import Run, RunState, open_run, record_state
from nuggets.runs.selections import list_selections, newest_selections
from nuggets.scores.cuts import (
    Cut,
    Threshold,
    TopFraction,
    TopK,
    cut_from_options,
    cut_name,
    cut_options,
    describe_cut,
    kept_count,
    remark,
)
from nuggets.scores.golden import ScoreTable
from nuggets.scores.ranking import rank_keys
from nuggets.scores.score_table import write_score_table
from nuggets.scores.selection import (
    Boundary,
    RankedRow,
    count_scores,
    find_boundary,
    summarize_selection,
    undecided_count,
)
from nuggets.steps.prepare import own_cut
from nuggets.steps.publish import Selection, publish_selection, read_report, undecided_candidates
from nuggets.steps.selection_files import DecidedScores, save_scores, save_selected
from nuggets.store.store import Store

NAN = float("nan")
ROOMY = 1 << 24  # bytes
Row = tuple[str, int, int, int, float]


def raced(*rows: Row, shard: int = 0) -> ScoreTable:
    """A table of (id, wins, cells, anchors, mean gain)."""
    ids, wins, cells, anchors, gains = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return ScoreTable(
        candidate_ids=pa.array(ids, pa.string()),
        candidate_rows=np.arange(len(ids), dtype=np.int64),
        shards=np.full(len(ids), shard, dtype=np.int32),
        wins=np.array(wins, dtype=np.int32),
        cells=np.array(cells, dtype=np.int32),
        anchors=np.array(anchors, dtype=np.int32),
        mean_gain=np.array(gains, dtype=np.float64),
    )


def table(*rows: tuple[str, int, int, float]) -> ScoreTable:
    """A table of complete candidates: (id, wins, anchors, mean gain)."""
    return raced(*((key, wins, anchors, anchors, gain) for key, wins, anchors, gain in rows))


def ranking(*tables: ScoreTable) -> list[str]:
    keys = {bytes(key): name for part in tables for key, name in zip(rank_keys(part), names(part), strict=True)}
    return [keys[key] for key in sorted(keys)]


def select(cut: Cut, *tables: ScoreTable) -> list[str]:
    """Ids of the candidates that the cut keeps, best first."""
    boundary, count = find_boundary(lambda: tables, count_scores(tables), cut)
    kept = {
        name for part in tables for name, keep in zip(names(part), boundary.keeps(rank_keys(part)), strict=True) if keep
    }
    assert len(kept) == count
    return [name for name in ranking(*tables) if name in kept]


def names(part: ScoreTable) -> list[str]:
    return part.candidate_ids.to_pylist()


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


def test_order_is_by_score_then_mean_gain_then_id_with_unknown_gains_last():
    assert ranking(TEN) == BEST_FIRST


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
        (TopK(10), BEST_FIRST[:-1]),  # j has no eligible anchor
        (TopK(11), BEST_FIRST[:-1]),
        (TopFraction(0.0), []),
        (TopFraction(0.05), ["h"]),
        (TopFraction(0.3), ["h", "f", "a"]),
        (TopFraction(0.31), ["h", "f", "a", "i"]),
        (TopFraction(1.0), BEST_FIRST[:-1]),
    ],
)
def test_a_cut_keeps_these_of_ten(cut: Cut, kept: list[str]):
    assert select(cut, TEN) == kept


@pytest.mark.parametrize("anchors", [3, 7, 10, 20, 100, 1000])
def test_a_score_that_equals_the_threshold_is_not_above_it(anchors: int):
    for wins in range(anchors + 1):
        found = table(("x", wins, anchors, 0.0))
        assert select(Threshold(wins / anchors), found) == []
        assert select(Threshold(np.nextafter(wins / anchors, -1)), found) == ["x"]


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
def test_a_fraction_in_thousandths_keeps_what_whole_numbers_say(thousandths: int, candidates: int):
    assert kept_count(TopFraction(thousandths / 1000), candidates) == -(-thousandths * candidates // 1000)


@pytest.mark.parametrize("cut", [Threshold(0.5), TopK(3), TopFraction(0.5)])
def test_an_empty_table_has_an_empty_selection(cut: Cut):
    assert select(cut, table()) == []
    assert select(cut) == []


SCORED = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(4, 5),
        st.sampled_from([NAN, -1.0, 0.0, 0.5, -0.0]),
    ),
    max_size=30,
).map(lambda rows: [(f"{(number * 7) % 31:02d}", *row) for number, row in enumerate(rows)])
CUTS = st.one_of(
    st.floats(0, 1).map(Threshold), st.integers(1, 40).map(TopK), st.floats(0, 1).map(TopFraction)
)  # fmt: skip


@given(SCORED, CUTS, st.randoms(use_true_random=False), st.integers(1, 9))
def test_a_selection_does_not_depend_on_candidate_order_or_shards(rows, cut, random, size):
    expected = select(cut, table(*rows))
    random.shuffle(rows)
    assert select(cut, *(table(*rows[start : start + size]) for start in range(0, len(rows), size))) == expected


@given(SCORED)
def test_a_ranking_holds_every_candidate_once_and_scores_never_rise(rows):
    order = ranking(table(*rows))
    score = {key: wins / anchors for key, wins, anchors, _ in rows}
    assert sorted(order) == sorted(score)
    assert (np.diff([score[key] for key in order]) <= 0).all()


@given(SCORED, st.floats(0, 1), st.floats(0, 1), st.integers(1, 40), st.integers(1, 40))
def test_a_stricter_cut_keeps_a_beginning_of_what_a_laxer_one_keeps(rows, one, other, few, many):
    pairs = [
        (Threshold(max(one, other)), Threshold(min(one, other))),
        (TopFraction(min(one, other)), TopFraction(max(one, other))),
        (TopK(min(few, many)), TopK(max(few, many))),
    ]
    for strict, lax in pairs:
        less, more = select(strict, table(*rows)), select(lax, table(*rows))
        assert more[: len(less)] == less


@given(SCORED, st.floats(0, 1))
def test_a_threshold_keeps_exactly_the_scores_above_it(rows, value):
    above = [key for key, wins, anchors, _ in rows if wins / anchors > value]
    assert sorted(select(Threshold(value), table(*rows))) == sorted(above)


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
def test_two_cuts_never_share_a_folder(one: float, other: float):
    assert (cut_name(TopFraction(one)) == cut_name(TopFraction(other))) == (TopFraction(one) == TopFraction(other))


def test_options_make_one_cut_or_none():
    assert cut_from_options({}) is None
    assert cut_from_options({"threshold": None, "pool": "p"}) is None
    assert cut_from_options({"threshold": 0, "top_k": None}) == Threshold(0.0)
    assert cut_from_options({"top_k": 3}) == TopK(3)
    assert cut_from_options({"top_fraction": 1}) == TopFraction(1.0)
    with pytest.raises(UsageError, match="^threshold=0.5, top_fraction=0.5: give one cut, not 2$"):
        cut_from_options({"threshold": 0.5, "top_fraction": 0.5})
    with pytest.raises(UsageError, match="^top_k=0 is out of range: allowed is 1 or more$"):
        cut_from_options({"top_k": 0})
    for options in ({"threshold": 1}, {"top_fraction": 0}, {"threshold": 1.5}, {"top_fraction": 5}):
        with pytest.raises(UsageError, match="is out of range: allowed is 0 to 1, without [01]"):
            cut_from_options(options)


@given(
    st.one_of(
        st.floats(0, 1, exclude_max=True).map(Threshold),
        st.integers(min_value=1).map(TopK),
        st.floats(0, 1, exclude_min=True).map(TopFraction),
    )
)
def test_a_cut_survives_a_manifest(cut: Cut):
    assert cut_from_options(json.loads(json.dumps(cut_options(cut)))) == cut
    assert cut_options(None) == {}


def test_a_run_races_for_its_own_cut_or_the_default():
    options = {"threshold": None, "top_k": None, "top_fraction": None, "racing": "on", "pool": "p"}
    run = Run("r", RunState.COMPLETE, "", "", options, {})
    assert own_cut(replace(run, config=options | {"threshold": 0.9})) == Threshold(0.9)
    assert own_cut(run) == TopFraction(0.05)
    assert own_cut(replace(run, config=options | {"racing": "off"})) is None


def test_a_surprising_outcome_has_a_remark():
    def note(cut: Cut, kept: int, best: tuple[float, float] = (0.625, 0.625)) -> str | None:
        return remark(cut, candidates=32, kept=kept, best=best)

    assert note(Threshold(0.8), 0) == "nothing is kept: the best golden score is 0.625"
    assert note(Threshold(0.8), 0, (0.25, 0.7)) == "nothing is kept: the best golden score is between 0.25 and 0.7"
    assert note(TopK(1000), 31) == "top_k=1000 exceeds the pool: all candidates with a score are kept, 31 of 32"
    assert note(TopK(32), 32) is note(Threshold(0.5), 1) is note(TopFraction(1), 32) is None


# Pools larger than memory, candidates with cells missing


def place_of(row: Row) -> tuple[float, float, float, str]:
    """The order in plain words: highest possible score, then lowest, then gain with an unknown one last, then id."""
    key, wins, cells, anchors, gain = row
    low, high = wins / max(1, anchors), (wins + anchors - cells) / anchors if anchors else -1  # judged on nothing: last
    return -high, -low, float("inf") if gain != gain else -gain, key


def kept_of(rows: Sequence[Row], cut: Cut) -> list[Row]:
    """The definition, of a decided pool."""
    ranked = sorted(rows, key=place_of)
    if isinstance(cut, Threshold):
        return [row for row in ranked if row[1] / max(1, row[3]) > cut.value]
    return [row for row in ranked[: kept_count(cut, len(rows))] if row[3]]


def decided(rows: list[Row], cut: Cut) -> list[Row]:
    """The same pool, with as many of the missing cells lost as the cut needs."""
    while undecided_count(count_scores([raced(*rows)]), cut):
        open_rows = [
            place
            for place, row in enumerate(rows)
            if row[2] < row[3] and undecided_count(count_scores([raced(*rows)]), cut)
        ]
        best = min(open_rows, key=lambda place: place_of(rows[place]))
        key, wins, _, anchors, _ = rows[best]
        rows = [*rows[:best], (key, wins, anchors, anchors, 0.25), *rows[best + 1 :]]
    return rows


def parted(rows: Sequence[Row], sizes: Sequence[int]) -> list[ScoreTable]:
    starts = np.cumsum([0, *sizes])
    return [
        raced(*rows[start : start + size], shard=shard)
        for shard, (start, size) in enumerate(zip(starts, sizes, strict=False))
    ]


def test_a_cut_that_lacks_cells_is_refused():
    found = raced(("a", 3, 4, 4, 0.5), ("b", 2, 3, 4, NAN), ("c", 0, 2, 4, NAN), ("d", 0, 0, 4, NAN))
    assert [undecided_count(count_scores([found]), cut) for cut in (TopK(1), TopK(2), Threshold(0.5), TopK(4))] == [
        2, 3, 2, 3
    ]  # fmt: skip
    with pytest.raises(ValueError, match="^2 candidates lack cells that the cut needs: compute them first$"):
        select(TopK(1), found)


def test_candidates_dropped_early_rank_after_all_kept_ones():
    found = raced(
        ("a", 3, 4, 4, 0.5), ("b", 2, 4, 4, -9.0), ("c", 1, 4, 4, 0.0), ("d", 0, 3, 4, NAN), ("e", 1, 3, 4, NAN)
    )
    assert ranking(found) == ["a", "b", "e", "c", "d"]
    assert select(TopK(1), found) == ["a"]
    assert select(Threshold(0.5), found) == ["a"]


LEFT = st.tuples(
    st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.sampled_from([-1.0, 0.0, 0.5, -0.0])
)  # fmt: skip


def rows_from(keys: Sequence[str], drawn: Sequence[tuple[int, int, int, float]]) -> list[Row]:
    return [
        (key, won, won + lost, won + lost + left, NAN if left else gain)
        for key, (won, lost, left, gain) in zip(keys, drawn, strict=True)
    ]


@given(st.lists(LEFT, min_size=1, max_size=25), CUTS, st.integers(1, 8), st.integers(1, 6))
def test_boundary_counts_and_shown_candidates_equal_those_of_the_whole_pool_in_memory(drawn, cut, size, ends):
    rows = decided(rows_from([f"{(number * 7) % 31:02d}" for number in range(len(drawn))], drawn), cut)
    sizes = [len(rows[start : start + size]) for start in range(0, len(rows), size)]
    tables = parted(rows, sizes)
    expected, ranked = kept_of(rows, cut), sorted(rows, key=place_of)
    assert select(cut, *tables) == [row[0] for row in expected]

    counts = count_scores(tables)
    bounds = counts.bounds
    triples = list(zip(bounds.wins.tolist(), bounds.cells.tolist(), bounds.anchors.tolist(), strict=True))
    assert dict(zip(triples, counts.count.tolist(), strict=True)) == Counter(row[1:4] for row in rows)
    assert counts.candidates == len(rows)

    boundary, _ = find_boundary(lambda: tables, counts, cut)
    found = summarize_selection(lambda: tables, counts, boundary, shown=ends)
    kept = Counter(row[1:4] for row in expected)
    assert found.kept.tolist() == [kept[triple] for triple in triples]
    shown = [row for rank, row in enumerate(ranked) if rank < ends or rank >= len(rows) - ends]
    assert [(row.rank, row.candidate_id, row.kept) for row in found.best_and_worst] == [
        (ranked.index(row) + 1, row[0], row in expected) for row in shown
    ]
    assert found.unscorable == tuple(row[0] for row in rows if not row[3])[:ends]
    places = {row[0]: (place // size, place % size, *row[1:4]) for place, row in enumerate(rows)}
    assert [(row.shard, row.row, row.wins, row.cells, row.anchors) for row in found.best_and_worst] == [
        places[row.candidate_id] for row in found.best_and_worst
    ]


@pytest.mark.parametrize("cut", [TopK(1), TopK(1700), TopFraction(0.5), Threshold(0.5), TopK(4999), TopK(5000)])
def test_a_boundary_among_hundreds_of_equal_scores_and_gains_is_that_of_the_sorted_pool(cut: Cut):
    rng = random.Random(5)
    rows = [
        (f"{number:032x}", rng.randrange(11), 10, 10, rng.choice([-1.0, 0.0, 0.5]))
        for number in rng.sample(range(10**9), 5000)
    ]
    tables = parted(rows, [512] * 9 + [392])
    expected = [row[0] for row in kept_of(rows, cut)]
    assert select(cut, *tables) == expected


POOL = [
    {"instruction": f"Say {number}.", "input": "", "output": "Grüße! " * (number % 5 + 1), **extra}
    for number in range(40)
    for extra in [{"rank": number, "source": None} if number % 3 else {"golden_score": "old", "tags": [number]}]
]


class Stored:
    """A pool of 40 in a store, in shards of 7."""

    def __init__(self, folder: Path) -> None:
        file = folder / "pool.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in POOL), encoding="utf-8")
        source = find_source(str(file))
        self.store = Store(str(folder / "store"))
        self.pool: Pool = ingest_pool(
            self.store, source, source_digest(source), shard_size=7, max_row_bytes=9999, max_rejected_share=0.0
        )
        records = list(read_records(self.store, self.pool.shards))
        self.keys = [candidate.id for candidate, _ in records]
        self.originals = {candidate.id: original for candidate, original in records}

    def files(self, tables: Sequence[ScoreTable], boundary: Boundary, memory: int) -> tuple[bytes, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            selected, scores = Path(folder, "selected.jsonl"), Path(folder, "scores.parquet")
            decided = DecidedScores(lambda: tables, boundary)
            save_selected(selected, self.store, self.pool, decided, memory=memory)
            assert save_scores(scores, decided) == len(self.keys)
            return selected.read_bytes(), scores.read_bytes()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return Stored(tmp_path_factory.mktemp("pool"))


def line_of(original: dict[str, Any], row: Row, rank: int) -> dict[str, Any]:
    ours = {"golden_score": row[1] / max(1, row[3]), "rank": rank, "example_id": row[0]}
    return {f"original_{name}" if name in ours else name: value for name, value in original.items()} | ours


@given(st.lists(LEFT, min_size=40, max_size=40), CUTS, st.sampled_from([7, 14, 40]))
def test_files_hold_kept_examples_best_first_and_all_scores_with_any_memory(stored, drawn, cut, size):
    rows = decided(rows_from(stored.keys, drawn), cut)
    whole = parted(rows, stored.pool.shard_examples)
    tables = [merged(whole[start : start + size // 7]) for start in range(0, len(whole), size // 7)]
    boundary, _ = find_boundary(lambda: tables, count_scores(tables), cut)
    selected, scores = stored.files(tables, boundary, ROOMY)
    assert stored.files(tables, boundary, 1) == (selected, scores)
    expected = kept_of(rows, cut)
    lines = [json.loads(line) for line in selected.decode().splitlines()]
    assert lines == [line_of(stored.originals[row[0]], row, rank) for rank, row in enumerate(expected, start=1)]
    assert pq.read_table(pa.BufferReader(scores)).to_pylist() == [
        {
            "candidate_id": row[0],
            "candidate_row": place % 7,
            "golden_score": row[1] / row[3] if row[2] == row[3] > 0 else None,
            "score_low": row[1] / row[3] if row[3] else None,
            "score_high": (row[1] + row[3] - row[2]) / row[3] if row[3] else None,
            "wins": row[1],
            "cells": row[2],
            "anchors": row[3],
            "mean_gain": row[4] if row[2] == row[3] > 0 else None,
            "kept": row in expected,
            "cut_tokens": None,
            "unscorable": None,
        }
        for place, row in enumerate(rows)
    ]


def test_the_bytes_of_a_selection(stored):
    first, second = example_id(Example("Say 1.", "", "Grüße! Grüße! ")), example_id(Example("Say 0.", "", "Grüße! "))
    wins = {first: 3, second: 1}
    tables = parted([(key, wins.get(key, 0), 3, 3, 0.5) for key in stored.keys], stored.pool.shard_examples)
    boundary, _ = find_boundary(lambda: tables, count_scores(tables), TopK(2))
    selected, _ = stored.files(tables, boundary, ROOMY)
    assert selected.decode() == (
        '{"instruction": "Say 1.", "input": "", "output": "Grüße! Grüße! ", "original_rank": 1, "source": null, '
        f'"golden_score": 1.0, "rank": 1, "example_id": "{first}"}}\n'
        '{"instruction": "Say 0.", "input": "", "output": "Grüße! ", "original_golden_score": "old", "tags": [0], '
        f'"golden_score": 0.3333333333333333, "rank": 2, "example_id": "{second}"}}\n'
    )


def test_a_pool_that_is_curated_again_and_again_loses_no_field(stored, tmp_path):
    row: dict[str, Any] = {"instruction": "Say so.", "rank": "theirs", "output": "So."}
    for score in (1, 2, 3):
        file = tmp_path / "pool.jsonl"
        file.write_text(json.dumps(row) + "\n")
        source = find_source(str(file))
        pool = ingest_pool(
            stored.store, source, source_digest(source), shard_size=7, max_row_bytes=9999, max_rejected_share=0.0
        )
        ((candidate, _),) = read_records(stored.store, pool.shards)
        tables = partial(iter, [table((candidate.id, score, 4, 0.0))])
        boundary, _ = find_boundary(tables, count_scores(tables()), TopK(1))
        save_selected(file, stored.store, pool, DecidedScores(tables, boundary), memory=ROOMY)
        row = json.loads(file.read_text())
    assert {name: value for name, value in row.items() if "golden" in name} == {
        "golden_score": 0.75, "original_golden_score": 0.25, "original_original_golden_score": 0.5
    }  # fmt: skip
    assert [row[f"{'original_' * times}rank"] for times in range(4)] == [1, "theirs", 1, 1]


def merged(tables: Sequence[ScoreTable]) -> ScoreTable:
    return ScoreTable(
        pa.concat_arrays([part.candidate_ids for part in tables]),
        *(
            np.concatenate([getattr(part, name) for part in tables])
            for name in ("candidate_rows", "shards", "wins", "cells", "anchors", "mean_gain")
        ),
    )


def test_a_selection_counts_its_cells_and_is_published_again_when_more_are_known(tmp_path: Path):
    here = Stored(tmp_path)
    identity = {"profile": "plain", "dtype": "float32"}
    inputs = {"pool": {"source": "pool.jsonl"}, "model": {"name": "tiny"}}
    open_run(here.store, "first", config={}, identity=identity, inputs=inputs)
    record_state(here.store, "first", RunState.COMPLETE, references={"pool": here.pool.id})
    rows = [(key, 3, 4, 4, 0.5) if number == 11 else (key, 0, 2, 4, NAN) for number, key in enumerate(here.keys)]
    write_score_table(here.store, "first", parted(rows, here.pool.shard_examples))

    assert undecided_candidates(here.store, "first", TopK(1)) == 0
    selection = publish_selection(here.store, "first", TopK(1))
    assert (selection.candidates, selection.kept, selection.already_there) == (40, 1, False)
    assert selection.quantiles["0.5"] == (0.0, 0.5)
    assert selection.shown[0].candidate == RankedRow(1, here.keys[11], 4, 1, 3, 4, 4, 0.5, True)
    assert [item.candidate.rank for item in selection.shown] == [*range(1, 11), *range(31, 41)]
    manifest = json.loads(Path(selection.folder, "manifest.json").read_bytes())
    assert manifest["candidates_by_cells"] == {"2": 39, "4": 1}
    assert manifest["golden_score_quantiles"]["0.5"] == [0.0, 0.5]
    assert (manifest["cut"], manifest["cut_description"]) == ({"top_k": 1}, "best 1")
    report = read_report(here.store, selection)
    assert "| cells | candidates |\n| --- | --- |\n| 2 | 39 |\n| 4 | 1 |\n" in report
    assert "| 0.000 to 0.500 | 0 | 2/4 | unknown | no |" in report
    assert "\n\n![Golden scores of the candidates, kept and dropped](scores.png)\n\n```text\n" in report
    assert "| scores.png | " in report
    files = {name: Path(selection.folder, name).read_bytes() for name in manifest["digests"]}
    assert set(files) == {"selected.jsonl", "scores.parquet", "scores.png", "report.md"}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == manifest["digests"]
    assert files["scores.png"].startswith(b"\x89PNG")

    assert undecided_candidates(here.store, "first", TopK(2)) == 39
    with pytest.raises(UsageError) as refused:
        publish_selection(here.store, "first", TopK(2))
    assert str(refused.value) == (
        "39 candidates of run 'first' lack cells that the cut 'best 2' needs: nuggets reselect computes them"
    )
    before = {path: here.store.read(path) for path in here.store.list("runs/first/selections")}
    write_score_table(
        here.store,
        "first",
        parted([(key, wins, 4, 4, 0.5) for key, wins, *_ in rows], here.pool.shard_examples),
    )
    again = publish_selection(here.store, "first", TopK(1))
    assert (again.already_there, again.kept, again.quantiles["0.5"]) == (False, 1, (0.0, 0.0))
    assert {path: here.store.read(path) for path in before} == before  # a published folder never changes
    after = {path: here.store.read(path) for path in here.store.list(again.path)}
    of_name = {Path(path).name: content for path, content in before.items()}
    changed = [Path(path).name for path, content in after.items() if content != of_name[Path(path).name]]
    assert sorted(changed) == ["manifest.json", "report.md", "scores.parquet", "scores.png"]  # it keeps the same
    assert publish_selection(here.store, "first", TopK(1)).already_there

    for name in ("selected.jsonl", "scores.png"):
        here.store.remove(f"{again.path}/{name}")
        assert not publish_selection(here.store, "first", TopK(1)).already_there
        assert here.store.read(f"{again.path}/{name}") == after[f"{again.path}/{name}"]
    assert publish_selection(here.store, "first", TopK(2)).kept == 2


def published(folder: Path) -> Stored:
    """A pool whose run is scored on four anchors: the twelfth candidate wins three, the others none."""
    here = Stored(folder)
    identity = {"profile": "plain", "dtype": "float32"}
    inputs = {"pool": {"source": "pool.jsonl"}, "model": {"name": "tiny"}}
    open_run(here.store, "first", config={}, identity=identity, inputs=inputs)
    record_state(here.store, "first", RunState.COMPLETE, references={"pool": here.pool.id, "scoring_key": "one"})
    judged(here, best=11)
    return here


def judged(here: Stored, *, best: int) -> None:
    rows = [(key, 3 * (number == best), 4, 4, 0.5) for number, key in enumerate(here.keys)]
    write_score_table(here.store, "first", parted(rows, here.pool.shard_examples))


def chosen(here: Stored, selection: Selection) -> list[str]:
    lines = here.store.read(f"{selection.path}/selected.jsonl").splitlines()
    return [json.loads(line)["example_id"] for line in lines]


def test_new_scores_make_a_new_folder_and_the_earlier_one_stays_as_it_was(tmp_path: Path):
    here = published(tmp_path)
    first = publish_selection(here.store, "first", TopK(1))
    assert chosen(here, first) == [here.keys[11]]
    before = {path: here.store.read(path) for path in here.store.list(first.path)}
    judged(here, best=11)
    assert publish_selection(here.store, "first", TopK(1)).already_there
    judged(here, best=5)
    second = publish_selection(here.store, "first", TopK(1))
    assert not second.already_there and chosen(here, second) == [here.keys[5]]
    assert {path: here.store.read(path) for path in here.store.list(first.path)} == before
    assert [item.folder for item in list_selections(here.store, "first")] == [first.path, second.path]
    assert [item.folder for item in newest_selections(here.store, "first")] == [second.path]
    assert publish_selection(here.store, "first", TopK(1)).already_there


def test_a_selection_of_another_scoring_key_is_another_one(tmp_path: Path):
    here = published(tmp_path)
    first = publish_selection(here.store, "first", TopK(1))
    record_state(here.store, "first", RunState.COMPLETE, references={"scoring_key": "two"})
    second = publish_selection(here.store, "first", TopK(1))
    keys = [item.run["references"]["scoring_key"] for item in list_selections(here.store, "first")]
    assert not second.already_there and first.path != second.path and keys == ["one", "two"]


def test_a_published_selection_does_not_depend_on_the_state_of_its_run(tmp_path: Path):
    here = published(tmp_path)
    selection = publish_selection(here.store, "first", TopK(1))
    run = here.store.read_json(f"{selection.path}/manifest.json")["run"]
    assert run["name"] == "first" and not {"state", "message", "attempt", "updated_at"} & set(run)
