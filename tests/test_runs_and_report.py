"""Runs with a fixed identity, and reports compared word for word."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrated import wait_for
from selections import store_manifest

from nuggets.errors import StoreError, UsageError
from nuggets.report.bins import score_bins
from nuggets.report.markdown import (
    QUANTILES,
    RankedExample,
    ReportData,
    examples_table,
    files_table,
    render_report,
    score_quantiles,
    selections_table,
)
from nuggets.report.not_used import NotUsed
from nuggets.runs.attempts import Heartbeat, claim_run, heartbeat, observed_state
from nuggets.runs.engine_paths import read_engine_paths, record_engine_path
from nuggets.runs.manifest import (
    RunState,
    list_runs,
    open_run,
    read_run,
    record_state,
    save_run,
    versions,
)
from nuggets.runs.overview import run_overview
from nuggets.runs.selections import list_selections, newest_selections
from nuggets.scores.anchor_wins import ReportedAnchor
from nuggets.scores.bounds import ScoreBounds
from nuggets.scores.cuts import Threshold, TopK
from nuggets.scores.selection import RankedRow, ScoreCounts
from nuggets.store.records import write_record
from nuggets.store.store import Store

IDENTITY = {"pool": "1f", "model": "2e", "seed": 0}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def opened(store: Store, name: str = "first", **changed: object):
    return open_run(store, name, config={"pool": "p.jsonl"}, identity={**IDENTITY, **changed}, inputs={"pool": "p"})


# Runs


def test_a_new_run_is_running_and_records_its_inputs(store):
    run = opened(store)
    assert (run.name, run.state, run.config, run.identity, run.inputs) == (
        "first", RunState.RUNNING, {"pool": "p.jsonl"}, IDENTITY, {"pool": "p"}
    )  # fmt: skip
    assert (run.references, run.counts, run.seconds, run.message) == ({}, {}, {}, "")
    assert run.versions == versions()
    assert {"python", "torch", "numpy"} <= set(run.versions)
    assert datetime.fromisoformat(run.created_at).tzinfo is not None
    assert store.list("") == ["runs/first/manifest.json"]
    assert read_run(store, "first") == run


def test_an_outcome_is_added_to_what_is_known(store):
    opened(store)
    record_state(store, "first", RunState.RUNNING, references={"pool": "x"}, counts={"rows": 3})
    run = record_state(store, "first", RunState.FAILED, "the disk is full", seconds={"ingest": 0.5})
    assert read_run(store, "first") == run
    assert (run.state, run.message) == (RunState.FAILED, "the disk is full")
    assert (run.references, run.counts, run.seconds) == ({"pool": "x"}, {"rows": 3}, {"ingest": 0.5})


def test_a_run_continues_with_its_recorded_facts(store):
    first = opened(store)
    record_state(store, "first", RunState.INTERRUPTED, "stopped", references={"pool": "x"})
    again = open_run(store, "first", config={"pool": "moved.jsonl"}, identity=IDENTITY, inputs={"pool": "moved"})
    assert (again.state, again.message, again.references) == (RunState.RUNNING, "", {"pool": "x"})
    assert (again.config, again.inputs) == ({"pool": "moved.jsonl"}, {"pool": "moved"})
    assert again.created_at == first.created_at
    assert again.updated_at >= first.updated_at


def test_a_run_made_from_something_else_is_refused_and_the_differences_are_named(store):
    before = opened(store)
    with pytest.raises(UsageError) as refused:
        opened(store, model="3d", anchors="20 by k-means")
    assert str(refused.value) == (
        "run 'first' exists with other inputs: it was made from pool p (model: 3d, was 2e; anchors: 20 by k-means, was "
        "not set). Give another --run name, or the same inputs to continue this run"
    )
    assert read_run(store, "first") == before


def test_an_identity_that_lost_a_part_is_another_one(store):
    opened(store, anchors="file 9c")
    with pytest.raises(UsageError, match=r"\(anchors: not set, was file 9c\)"):
        opened(store)


def test_runs_are_listed_by_name_and_nothing_else_is_taken_for_one(store):
    assert list_runs(store) == []
    runs = [opened(store, name) for name in ("b", "a-1", "a")]
    store.write("runs/a/worklists/manifest.json", b"{}")
    store.write("runs/a/selections/top-k-1/manifest.json", b"{}")
    store.write("runs/half/golden.parquet", b"")
    store.write("runs/manifest.json", b"{}")
    assert list_runs(store) == [runs[2], runs[1], runs[0]]


def test_an_unknown_run_is_refused_with_the_known_ones(store):
    with pytest.raises(UsageError, match=f"^run 'x' is not in store {store.url}; runs there: none$"):
        read_run(store, "x")
    opened(store, "b")
    opened(store, "a")
    with pytest.raises(UsageError, match=f"^run 'x' is not in store {store.url}; runs there: a, b$"):
        read_run(store, "x")


def test_selections_are_listed_oldest_first(store):
    for name, scores, created_at in (
        ("top-k-1", "b", "2026-02-01"),
        ("top-k-2", "a", "2026-01-01"),
        ("threshold-0.5", "b", "2026-02-01"),
        ("top-k-1", "a", "2026-01-02"),
    ):
        store_manifest(store, "first", name=name, scores_digest=scores, created_at=created_at)
    store.write("runs/first/selections/top-k-9/a/scores.parquet", b"cut short: it has no manifest")
    folders = [item.folder.removeprefix("runs/first/selections/") for item in list_selections(store, "first")]
    assert folders == ["top-k-2/a", "top-k-1/a", "threshold-0.5/b", "top-k-1/b"]
    newest = [item.folder.removeprefix("runs/first/selections/") for item in newest_selections(store, "first")]
    assert newest == ["top-k-2/a", "threshold-0.5/b", "top-k-1/b"]
    assert list_selections(store, "other") == []


def test_a_selection_is_read_as_it_was_stored(store):
    manifest = store_manifest(store, "first", golden_score_quantiles={"0.5": (0.0, 1.0)})
    assert list_selections(store, "first") == [manifest]
    assert manifest.folder == "runs/first/selections/top-k-2/3f2a"
    assert store.read_json(f"{manifest.folder}/manifest.json")["golden_score_quantiles"] == {"0.5": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"format": 2}, "it has format 2, this version reads format 1"),
        ({"golden_sha256": "ab"}, "unknown field golden_sha256"),
    ],
)
def test_other_formats_and_fields_of_a_selection_an_engine_path_and_a_heartbeat_are_named(store, changed, reason):
    run = opened(store)
    selection = f"{store_manifest(store, 'first').folder}/manifest.json"
    as_old(store, selection, **changed)
    with pytest.raises(StoreError, match=f"{selection} is not a SelectionManifest .*{reason}"):
        list_selections(store, "first")
    record_engine_path(store, "first", "plain")
    assert read_engine_paths(store, "first") == ["plain"]
    (path,) = store.list("runs/first/engine_paths")
    as_old(store, path, **changed)
    with pytest.raises(StoreError, match=f"{path} is not a EnginePath .*{reason}"):
        read_engine_paths(store, "first")
    write_record(store, "runs/first/heartbeat.json", Heartbeat(run.attempt, "9999-01-01T00:00:00.000+00:00"))
    as_old(store, "runs/first/manifest.json", updated_at=LONG_AGO)
    assert observed_state(store, read_run(store, "first")) is RunState.RUNNING
    as_old(store, "runs/first/heartbeat.json", **changed)
    assert observed_state(store, read_run(store, "first")) is RunState.LOST


def as_old(store: Store, path: str, **fields: Any) -> None:
    """Replace fields of a stored JSON object, for example its time by one that is long past."""
    store.write(path, json.dumps({**store.read_json(path), **fields}).encode())


LONG_AGO = "2026-01-01T00:00:00.000+00:00"


def test_a_running_run_without_heartbeats_is_lost_and_one_with_a_heartbeat_is_not(store, monkeypatch):
    run = opened(store)
    assert observed_state(store, run) is RunState.RUNNING  # its flow has just started it
    as_old(store, "runs/first/manifest.json", updated_at=LONG_AGO)
    assert observed_state(store, read_run(store, "first")) is RunState.LOST
    assert run_overview(store, read_run(store, "first")).state == "lost"
    with monkeypatch.context() as patched:
        patched.setattr("nuggets.runs.attempts.HEARTBEAT_SECONDS", 0.02)
        with heartbeat(store, "first", run.attempt):
            wait_for(lambda: store.exists("runs/first/heartbeat.json"), seconds=30)
    assert store.read_json("runs/first/heartbeat.json")["attempt"] == run.attempt
    assert observed_state(store, read_run(store, "first")) is RunState.RUNNING
    as_old(store, "runs/first/heartbeat.json", at=LONG_AGO)
    assert observed_state(store, read_run(store, "first")) is RunState.LOST
    store.write("runs/first/heartbeat.json", b"{")
    assert observed_state(store, read_run(store, "first")) is RunState.LOST
    record_state(store, "first", RunState.FAILED)
    as_old(store, "runs/first/manifest.json", updated_at=LONG_AGO)
    assert observed_state(store, read_run(store, "first")) is RunState.FAILED  # the flow has recorded its end


def test_heartbeats_of_an_attempt_end_when_a_newer_one_takes_the_run(store, monkeypatch):
    monkeypatch.setattr("nuggets.runs.attempts.HEARTBEAT_SECONDS", 0.02)
    first = opened(store)
    with heartbeat(store, "first", first.attempt):
        wait_for(lambda: store.exists("runs/first/heartbeat.json"), seconds=30)
        second = opened(store)
        with heartbeat(store, "first", second.attempt):
            wait_for(lambda: store.read_json("runs/first/heartbeat.json")["attempt"] == second.attempt, seconds=30)
    assert store.read_json("runs/first/heartbeat.json")["attempt"] == second.attempt != first.attempt


def test_only_the_newest_attempt_changes_the_state(store, caplog):
    first, second = opened(store), opened(store)
    run = record_state(
        store, "first", RunState.COMPLETE, attempt=first.attempt, references={"pool": "x"}, counts={"rows": 3}
    )
    assert (run.state, run.attempt, run.references, run.counts) == (
        RunState.RUNNING, second.attempt, {"pool": "x"}, {}
    )  # fmt: skip
    assert "run 'first': state 'complete' is not recorded: a newer attempt works on this run" in caplog.text
    assert record_state(store, "first", RunState.FAILED, "no", attempt=first.attempt) == read_run(store, "first")
    run = record_state(store, "first", RunState.COMPLETE, attempt=second.attempt, counts={"rows": 3})
    assert read_run(store, "first") == run and (run.state, run.counts) == (RunState.COMPLETE, {"rows": 3})


def test_a_run_is_claimed_unless_a_flow_works_on_it(store):
    run = opened(store)
    assert claim_run(store, "first") is None and read_run(store, "first") == run
    as_old(store, "runs/first/manifest.json", updated_at=LONG_AGO)  # lost
    attempt = claim_run(store, "first")
    assert attempt not in (None, run.attempt)
    claimed = read_run(store, "first")
    assert (claimed.state, claimed.attempt) == (RunState.RUNNING, attempt)
    for state in (RunState.COMPLETE, RunState.FAILED, RunState.INTERRUPTED):
        record_state(store, "first", state, "it says why")
        assert claim_run(store, "first") is not None
        assert (read_run(store, "first").state, read_run(store, "first").message) == (RunState.RUNNING, "")


def test_a_saved_run_keeps_all_characters(store):
    run = opened(store)
    saved = save_run(store, replace(run, message="Größe 𝄞"))
    assert read_run(store, "first") == saved
    assert saved.message == "Größe 𝄞"


# Reports


def example(rank: int, *, instruction: str = "Add.", output: str = "3", **known: object) -> RankedExample:
    facts = {"wins": 10, "cells": 20, "anchors": 20, "mean_gain": 0.25, "kept": True} | known
    return RankedExample(
        RankedRow(rank=rank, candidate_id="1f", row=rank + 10, shard=0, **facts), instruction, output
    )  # fmt: skip


def counts(*rows: tuple[int, int, int, int]) -> ScoreCounts:
    """Of rows of (candidates, wins, cells, anchors)."""
    count, wins, cells, anchors = np.array(rows, dtype=np.int32).reshape(-1, 4).T
    return ScoreCounts(ScoreBounds(wins, cells - wins, anchors), count.astype(np.int64))


TINY_COUNTS = counts((2, 3, 20, 20), (1, 4, 20, 20), (1, 7, 20, 20))
TINY = ReportData(
    title="tiny: golden score above 0.3",
    facts={"cut": "golden score above 0.3", "kept": "1 of 4 candidates", "pool": "a|b\n.jsonl: 6 rows"},
    not_used=[
        NotUsed("rejected rows: missing_output", 1, "first: row 2 (line 3): no 'output'"),
        NotUsed("demonstrations with a | bar", 2, "rows 0, 1"),
    ],
    rejects_file="s3://b/pools/1f/rejects.jsonl",
    counts=TINY_COUNTS,
    bins=score_bins(TINY_COUNTS, np.array([0, 0, 1]), Threshold(0.3)),
    cells={20: 4},
    best=[example(1, wins=7, mean_gain=1.25)],
    worst=[
        example(3, wins=3, mean_gain=-0.0625, kept=False, output="a | b\n\n<i>c</i>"),
        example(4, wins=3, mean_gain=float("nan"), kept=False, instruction="`rm`\t\\ it"),
    ],
    picture="scores.png",
    folder="s3://b/runs/my_run_1/selections/threshold-0.3",
    files={"scores.parquet": "everyone's scores", "report.md": "this page"},
)
TINY_REPORT = """\
# tiny: golden score above 0.3

|  |  |
| --- | --- |
| cut | golden score above 0.3 |
| kept | 1 of 4 candidates |
| pool | a\\|b .jsonl: 6 rows |

## What was not used

| what | how many | which |
| --- | --- | --- |
| rejected rows: missing_output | 1 | first: row 2 (line 3): no 'output' |
| demonstrations with a \\| bar | 2 | rows 0, 1 |

Every rejected row with its reason: `s3://b/pools/1f/rejects.jsonl`

## Golden scores

The share of anchors that an example makes more probable when the model sees it first. \
Compare scores within this run only: their level depends on the model and the anchors.

| lowest | 10 % | 25 % | 50 % | 75 % | 90 % | highest |
| --- | --- | --- | --- | --- | --- | --- |
| 0.150 | 0.150 | 0.150 | 0.175 | 0.237 | 0.305 | 0.350 |

![Golden scores of the candidates, kept and dropped](scores.png)

```text
score        examples # kept, . dropped
0.150               2 ......................................
0.200               1 ...................
0.250               0
0.300               0
cut --------------------------------------------------------
0.350               1 ###################
```

## Best

| rank | score | wins | cells | mean gain | kept | row | instruction | output |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 1 | 0.350 | 7 | 20/20 | +1.250 | yes | 11 | Add. | 3 |

## Worst

| rank | score | wins | cells | mean gain | kept | row | instruction | output |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 3 | 0.150 | 3 | 20/20 | -0.062 | no | 13 | Add. | a \\| b &lt;i>c&lt;/i> |
| 4 | 0.150 | 3 | 20/20 | unknown | no | 14 | 'rm' \\\\ it | 3 |

## Files

In `s3://b/runs/my_run_1/selections/threshold-0.3`

| file | what it holds |
| --- | --- |
| scores.parquet | everyone's scores |
| report.md | this page |
"""


def test_a_whole_report():
    assert render_report(TINY) == TINY_REPORT


RACED_COUNTS = counts((1, 14, 20, 20), (2, 1, 8, 20), (1, 0, 16, 20))
RACED = replace(
    TINY,
    counts=RACED_COUNTS,
    bins=score_bins(RACED_COUNTS, np.array([1, 0, 0]), TopK(1)),
    cells={20: 1, 8: 2, 16: 1},
    worst=[example(4, wins=0, cells=16, mean_gain=float("nan"), kept=False)],
)
RACED_SCORES = """\
| lowest | 10 % | 25 % | 50 % | 75 % | 90 % | highest |
| --- | --- | --- | --- | --- | --- | --- |
| 0.000 to 0.200 | 0.015 to 0.335 | 0.037 to 0.537 | 0.050 to 0.650 | 0.212 to 0.662 | 0.505 to 0.685 | 0.700 |

![Golden scores of the candidates, kept and dropped](scores.png)

```text
score        examples # kept, . dropped
                      : dropped early, at the highest score
0.200               1 :::::::::::::::::::
0.250               0
0.300               0
0.350               0
0.400               0
0.450               0
0.500               0
0.550               0
0.600               0
0.650               2 ::::::::::::::::::::::::::::::::::::::
cut --------------------------------------------------------
0.700               1 ###################
```

## Cells per candidate

Candidates that could no longer make the cut were dropped with cells missing: their score is an interval. \
Kept candidates have all of their cells.

| cells | candidates |
| --- | --- |
| 8 to 9 | 2 |
| 16 to 17 | 1 |
| 20 | 1 |

## Best
"""
RACED_WORST = """\
## Worst, by the highest score possible

| rank | score | wins | cells | mean gain | kept | row | instruction | output |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
|  | 0.000 to 0.200 | 0 | 16/20 | unknown | no | 14 | Add. | 3 |
"""


def test_a_report_of_a_race_shows_bounds_and_counts_of_cells():
    report = render_report(RACED)
    assert RACED_SCORES in report
    assert RACED_WORST in report


def test_a_report_does_not_speak_of_what_is_not_there():
    one = counts((1, 4, 4, 4))
    clean = ReportData("t", {}, [], "", one, score_bins(one, np.array([1]), TopK(1)), {4: 1}, [], [], "", "", {})
    assert "## What was not used\n\nNothing was cut, dropped, merged or left out.\n\n## " in render_report(clean)
    assert "rejected" not in render_report(clean)
    assert "ells per candidate" not in render_report(clean)


@pytest.mark.parametrize(
    ("cells", "rows"),
    [
        ({0: 5}, ["| 0 | 5 |"]),
        ({10: 1, 3: 2, 0: 7}, ["| 0 | 7 |", "| 3 | 2 |", "| 10 | 1 |"]),
        ({11: 1, 3: 2, 2: 1, 0: 7}, ["| 0 to 1 | 7 |", "| 2 to 3 | 3 |", "| 10 to 11 | 1 |"]),
        ({100: 3, 99: 1, 41: 5, 49: 1}, ["| 40 to 49 | 6 |", "| 90 to 99 | 1 |", "| 100 | 3 |"]),
    ],
)
def test_candidates_are_counted_by_cells(cells: dict[int, int], rows: list[str]):
    report = render_report(replace(RACED, cells=cells))
    assert "\n".join(["| cells | candidates |", "| --- | --- |", *rows, "", "## Best"]) in report


LEVELS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12
)


@given(LEVELS, st.data())
def test_every_true_quantile_lies_between_its_bounds(rows, data):
    pool = counts(*((count, wins, wins + lost, wins + lost + left) for count, wins, lost, left in rows))
    eligible = [row for row in rows if sum(row[1:])] or rows  # the others have no score
    scores = [
        (wins + data.draw(st.integers(0, left))) / max(1, wins + lost + left)
        for count, wins, lost, left in eligible
        for _ in range(count)
    ]
    found = score_quantiles(pool)
    assert list(found) == ["0", "0.1", "0.25", "0.5", "0.75", "0.9", "1"]
    for (low, high), true in zip(found.values(), np.quantile(scores, QUANTILES), strict=True):
        assert low - 1e-6 <= true <= high + 1e-6


@given(LEVELS)
def test_quantiles_of_known_scores_are_those_of_numpy(rows):
    pool = counts(*((count, wins, wins + lost, wins + lost) for count, wins, lost, _ in rows))
    eligible = [row for row in rows if row[1] + row[2]] or rows  # the others have no score
    scores = [wins / max(1, wins + lost) for count, wins, lost, _ in eligible for _ in range(count)]
    low, high = zip(*score_quantiles(pool).values(), strict=True)
    assert low == high
    np.testing.assert_allclose(low, np.quantile(scores, QUANTILES), atol=1e-6)


@given(st.text(), st.text())
def test_any_text_stays_one_line_of_nine_cells_without_tags(instruction: str, output: str):
    lines = examples_table([example(1, instruction=instruction, output=output)]).splitlines()
    assert len(lines) == 3
    cells = lines[2].replace("\\\\", "").replace("\\|", "").split("|")
    assert len(cells) == 11
    assert "<" not in lines[2] and "`" not in lines[2]


def test_a_long_text_is_shortened_to_90_characters_without_half_an_escape():
    assert examples_table([example(1, instruction="x" * 90)]).count("x" * 90 + " |") == 1
    assert "| " + "x" * 89 + "… |" in examples_table([example(1, instruction="x" * 91)])
    assert "| " + "x" * 88 + "… |" in examples_table([example(1, instruction="x" * 88 + "|" + "y" * 9)])


def test_files_stand_with_their_full_addresses():
    assert files_table({"selected.jsonl": "s3://b/__x__/a|b.jsonl", "report.md": "/c/report.md"}).splitlines() == [
        "| file | where |",
        "| --- | --- |",
        "| selected.jsonl | `s3://b/__x__/a\\|b.jsonl` |",
        "| report.md | `/c/report.md` |",
    ]


def test_selections_stand_side_by_side():
    rows = [("best 5 %", 50, "s3://b/store/runs/r/selections/top-fraction-0.05"), ("above | 0.5", 7, "/x")]
    assert selections_table(rows).splitlines() == [
        "| cut | kept | where |",
        "| --- | --- | --- |",
        "| best 5 % | 50 | s3://b/store/runs/r/selections/top-fraction-0.05 |",
        "| above \\| 0.5 | 7 | /x |",
    ]


def test_of_many_anchors_both_ends_are_listed():
    facts = {"pool_row": None, "loss": 1.0, "cells": 100, "times": 1, "output": ""}
    anchors = [ReportedAnchor(row=row, wins=41 - row, instruction="Go.", **facts) for row in range(41)]
    report = render_report(replace(TINY, anchors=anchors[:40]))
    assert report.count("| Go. |") == 40 and "anchors.parquet has all" not in report
    report = render_report(replace(TINY, anchors=anchors))
    listed = [line.split("|")[1].strip() for line in report.splitlines() if "| Go. |" in line]
    assert listed == [str(row) for row in (*range(20), *range(21, 41))]
    assert "The 20 most won and the 20 least won anchors; anchors.parquet has all." in report
