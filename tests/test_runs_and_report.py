"""Runs that are what their name says, and reports compared word for word."""

import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuggets.errors import UsageError
from nuggets.report import RankedExample, ReportData, examples_table, histogram, render_report
from nuggets.runs import RunState, list_runs, list_selections, note_outcome, open_run, read_run, save_run, versions
from nuggets.store import Store

IDENTITY = {"pool": "1f", "model": "2e", "seed": 0}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def opened(store: Store, name: str = "first", **changed: object):
    return open_run(store, name, config={"pool": "p.jsonl"}, identity={**IDENTITY, **changed}, inputs={"pool": "p"})


# Runs


def test_a_new_run_is_running_and_says_what_it_is_made_of(store):
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
    note_outcome(store.url, "first", RunState.RUNNING, references={"pool": "x"}, counts={"rows": 3})
    run = note_outcome(store.url, "first", RunState.FAILED, "the disk is full", seconds={"ingest": 0.5})
    assert read_run(store, "first") == run
    assert (run.state, run.message) == (RunState.FAILED, "the disk is full")
    assert (run.references, run.counts, run.seconds) == ({"pool": "x"}, {"rows": 3}, {"ingest": 0.5})


def test_a_run_goes_on_where_it_was_left(store):
    first = opened(store)
    note_outcome(store.url, "first", RunState.INTERRUPTED, "stopped", references={"pool": "x"})
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
        "run 'first' exists and was made from something else (model: 2e there, 3d now; "
        "anchors: None there, 20 by k-means now): give another --run name"
    )
    assert read_run(store, "first") == before


def test_an_identity_that_lost_a_part_is_another_one(store):
    opened(store, anchors="file 9c")
    with pytest.raises(UsageError, match=r"\(anchors: file 9c there, None now\)"):
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
    for name, created_at in (("top-k-1", "2026-02-01"), ("top-k-2", "2026-01-01"), ("threshold-0.5", "2026-02-01")):
        manifest = {"name": name, "created_at": created_at}
        store.write(f"runs/first/selections/{name}/manifest.json", json.dumps(manifest).encode())
    store.write("runs/first/selections/top-k-9/scores.parquet", b"cut short: it has no manifest")
    assert [item["name"] for item in list_selections(store, "first")] == ["top-k-2", "threshold-0.5", "top-k-1"]
    assert list_selections(store, "other") == []


def test_a_saved_run_keeps_all_characters(store):
    run = opened(store)
    saved = save_run(store, replace(run, message="Größe 𝄞"))
    assert read_run(store, "first") == saved
    assert saved.message == "Größe 𝄞"


# Reports


def example(rank: int, *, instruction: str = "Add.", output: str = "3", **known: object) -> RankedExample:
    facts = {"golden_score": 0.5, "wins": 10, "anchors": 20, "mean_gain": 0.25, "kept": True} | known
    return RankedExample(
        rank=rank, example_id="1f", row=rank + 10, instruction=instruction, output=output, **facts
    )  # fmt: skip


TINY = ReportData(
    title="tiny: golden score above 0.5",
    facts={"cut": "golden score above 0.5", "kept": "1 of 4 candidates", "pool": "a|b\n.jsonl: 6 rows"},
    rejects={"missing_output": 1, "too_large": 1},
    scores=np.array([0.15, 0.2, 0.35, 0.15]),
    kept=np.array([False, False, True, False]),
    best=[example(1, golden_score=0.35, wins=7, mean_gain=1.25)],
    worst=[
        example(3, golden_score=0.15, wins=3, mean_gain=-0.0625, kept=False, output="a | b\n\n<i>c</i>"),
        example(4, golden_score=0.15, wins=3, mean_gain=float("nan"), kept=False, instruction="`rm`\t\\ it"),
    ],
    files={"scores.parquet": "everyone's scores", "report.md": "this page"},
)
TINY_REPORT = """\
# tiny: golden score above 0.5

|  |  |
| --- | --- |
| cut | golden score above 0.5 |
| kept | 1 of 4 candidates |
| pool | a\\|b .jsonl: 6 rows |

## Golden scores

The share of anchors that an example makes more probable when the model sees it first. \
Compare scores within this run only: their level depends on the model and the anchors.

| least | 10 % | 25 % | 50 % | 75 % | 90 % | most |
| --- | --- | --- | --- | --- | --- | --- |
| 0.150 | 0.150 | 0.150 | 0.175 | 0.237 | 0.305 | 0.350 |

```text
score        examples  (# kept, . dropped)
0.15-0.20        2 ........................................
0.20-0.25        1 ....................
0.25-0.30        0
0.30-0.35        0
0.35-0.40        1 ####################
```

## Best

| rank | score | wins | mean gain | kept | row | instruction | output |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 1 | 0.350 | 7/20 | +1.250 | yes | 11 | Add. | 3 |

## Worst

| rank | score | wins | mean gain | kept | row | instruction | output |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 3 | 0.150 | 3/20 | -0.062 | no | 13 | Add. | a \\| b &lt;i>c&lt;/i> |
| 4 | 0.150 | 3/20 | unknown | no | 14 | 'rm' \\\\ it | 3 |

## Rows that could not be used

| reason | rows |
| --- | --- |
| missing_output | 1 |
| too_large | 1 |

## Files

| file | what it holds |
| --- | --- |
| scores.parquet | everyone's scores |
| report.md | this page |
"""


def test_a_whole_report():
    assert render_report(TINY) == TINY_REPORT


def test_a_report_of_a_pool_without_rejects_does_not_speak_of_them():
    clean = ReportData("t", {}, {}, np.array([1.0]), np.array([True]), [], [], {})
    assert "could not be used" not in render_report(clean)


def bars(scores: list[float], kept: list[bool] | None = None, **options: int) -> list[str]:
    flags = np.array(kept if kept is not None else [True] * len(scores), dtype=bool)
    return histogram(np.array(scores), flags, **options).splitlines()[1:]


@pytest.mark.parametrize(
    ("score", "bin"),
    [
        (0.0, "0.00-0.05"),
        (0.049, "0.00-0.05"),
        (0.05, "0.05-0.10"),
        (0.15, "0.15-0.20"),
        (3 / 20, "0.15-0.20"),
        (6 / 20, "0.30-0.35"),
        (0.7, "0.70-0.75"),
        (0.95, "0.95-1.00"),
        (1.0, "0.95-1.00"),
    ],
)
def test_a_bin_holds_its_lower_edge_and_the_last_one_also_1(score: float, bin: str):
    assert bars([score]) == [f"{bin}        1 {'#' * 40}"]


@pytest.mark.parametrize("anchors", [20, 40, 100, 260])
def test_every_edge_that_is_a_share_of_the_anchors_starts_its_bin(anchors: int):
    for number in range(20):
        score = number * anchors // 20 / anchors
        assert bars([score])[0].startswith(f"{number / 20:.2f}-")


def test_an_edge_that_floating_point_misses_starts_its_bin_all_the_same():
    assert bars([0.29], bins=100) == [f"0.29-0.30        1 {'#' * 40}"]  # 0.29 * 100 is 28.999999999999996


def test_bars_are_scaled_to_the_longest_and_no_example_is_without_one():
    assert bars([0.0] * 80 + [0.5] * 3 + [0.6], [True] * 20 + [False] * 60 + [True] + [False] * 3, bins=2) == [
        "0.00-0.50       80 " + "#" * 10 + "." * 30,
        "0.50-1.00        4 #.",
    ]


def test_no_scores_make_no_bars():
    assert bars([]) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
@settings(deadline=None)
def test_every_score_is_counted_once(rows, bins):
    counted = bars([score for score, _ in rows], [kept for _, kept in rows], bins=bins)
    assert sum(int(line.split()[1]) for line in counted) == len(rows)


@given(st.text(), st.text())
@settings(deadline=None)
def test_any_text_stays_one_line_of_eight_cells_without_tags(instruction: str, output: str):
    lines = examples_table([example(1, instruction=instruction, output=output)]).splitlines()
    assert len(lines) == 3
    cells = lines[2].replace("\\\\", "").replace("\\|", "").split("|")
    assert len(cells) == 10
    assert "<" not in lines[2] and "`" not in lines[2]


def test_a_long_text_is_shortened_to_90_characters_without_half_an_escape():
    assert examples_table([example(1, instruction="x" * 90)]).count("x" * 90 + " |") == 1
    assert "| " + "x" * 89 + "… |" in examples_table([example(1, instruction="x" * 91)])
    assert "| " + "x" * 88 + "… |" in examples_table([example(1, instruction="x" * 88 + "|" + "y" * 9)])
