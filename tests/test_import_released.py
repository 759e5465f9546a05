"""Scores that the authors' released program wrote, and what becomes of them."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuggets.errors import InputError, UsageError
from nuggets.examples import Example, example_id
from nuggets.pools.shards import read_ids, read_pool_record
from nuggets.runs.manifest import Run, RunState, list_runs
from nuggets.runs.selections import list_selections
from nuggets.scores.cuts import Threshold, TopK
from nuggets.scores.golden import ScoreTable
from nuggets.scores.score_table import read_score_table
from nuggets.steps.import_released import ReleasedScores, import_scores, read_released_scores
from nuggets.steps.publish import publish_selection
from nuggets.store.store import Store

POOL = [
    {"instruction": "Add.", "input": "1 2", "output": "3", "source": "a"},
    {"instruction": "Count.", "input": "", "output": "1"},
    {"instruction": "Name a colour.", "input": "", "output": "Red."},
    {"instruction": "Say hello.", "input": "", "output": "Grüße!"},
]
ANCHORS = [{"instruction": "Sum.", "input": "", "output": "9"}, {"instruction": "List.", "input": "", "output": "a b"}]
# Two anchors: candidate 0 raises one of them, candidate 1 both.
SCORES = {"0": [0.5], "1": [1.0]}
RAW = {"0": [[-4.0, -8.0], [-3.0, -8.5]], "1": [[-4.0, -8.0], [-1.0, -7.25]]}


class Files:
    """A folder as the authors' program leaves it, with the pool and anchors that it was run on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(str(root / "store"))
        self.folder = root / "scores"
        self.folder.mkdir()
        self.pool(POOL)
        (root / "anchors.json").write_text(json.dumps(ANCHORS))

    def pool(self, rows: list[Any]) -> None:
        (self.root / "pool.json").write_text(json.dumps(rows))

    def put(self, **contents: Any) -> None:
        for name, content in contents.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (self.folder / f"{name.removeprefix('at_')}.json").write_text(text)

    def imported(self, **options: Any) -> Run:
        anchors = str(self.root / "anchors.json")
        return import_scores(self.store, self.folder, pool=str(self.root / "pool.json"), anchor_file=anchors, **options)

    def golden(self, name: str | None = None) -> ScoreTable:
        """The golden scores of a run, or of what is imported now, in the order of the pool's rows."""
        (table,) = read_score_table(self.store, name or self.imported().name)
        order = np.argsort(table.candidate_rows)
        columns = (getattr(table, column.name)[order] for column in fields(table)[1:])
        return ScoreTable(table.candidate_ids.take(pa.array(order)), *columns)

    def refusal(self) -> str:
        with pytest.raises(InputError) as refused:
            self.imported()
        assert list_runs(self.store) == []
        return str(refused.value)


def key_of(row: dict[str, str]) -> str:
    return example_id(Example(row["instruction"], row["input"], row["output"]))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_imported_scores_are_a_complete_run_with_exactly_their_scores(files):
    files.put(at_0_2_score=SCORES, at_0_2_raw_score=RAW)
    run = files.imported(run="theirs")
    assert (run.name, run.state, run.message) == ("theirs", RunState.COMPLETE, "")
    assert run.counts == {
        "rows": 4,
        "examples": 4,
        "anchors": 2,
        "imported_scores": 2,
        "examples_without_score": 2,
        "scores_of_unusable_or_duplicate_rows": 0,
    }
    assert run.inputs["score_files"] == ["0_2_raw_score.json", "0_2_score.json"]
    assert run.identity["profile"] == "released"
    golden = files.golden("theirs")
    assert golden.golden_score.tolist() == [0.5, 1.0]
    assert golden.candidate_rows.tolist() == [0, 1]
    assert golden.candidate_ids.to_pylist() == [key_of(POOL[0]), key_of(POOL[1])]
    assert (golden.wins.tolist(), golden.cells.tolist(), golden.anchors.tolist()) == ([1, 2], [2, 2], [2, 2])
    assert golden.bounds.complete.tolist() == [True, True]


def test_golden_scores_are_in_the_order_of_the_pool_and_know_their_shard(files, monkeypatch):
    monkeypatch.setattr("nuggets.steps.import_released.SHARD_SIZE", 2)
    files.put(at_0_4_score={"0": [0.5], "1": [1.0], "2": [0.0], "3": [0.5]})
    run = files.imported()
    (golden,) = read_score_table(files.store, run.name)
    rows = sorted(range(4), key=lambda row: key_of(POOL[row]))
    assert golden.candidate_ids.type == pa.string()
    assert golden.candidate_ids.to_pylist() == [key_of(POOL[row]) for row in rows]
    assert golden.candidate_rows.tolist() == rows
    assert golden.shards.tolist() == [0, 0, 1, 1]
    assert golden.golden_score.tolist() == [[0.5, 1.0, 0.0, 0.5][row] for row in rows]
    pool = read_pool_record(files.store, run.references["pool"])
    for shard, path in enumerate(pool.shards):
        ids, _ = read_ids(files.store, path)
        assert ids.to_pylist() == [key_of(POOL[row]) for row in rows[2 * shard : 2 * shard + 2]]
    selection = publish_selection(files.store, run.name, TopK(1))
    assert json.loads(Path(selection.folder, "selected.jsonl").read_text())["instruction"] == "Count."


def test_mean_gain_is_one_shot_minus_zero_shot_in_nats_per_anchor(files):
    files.put(at_0_2_score=SCORES, at_0_2_raw_score=RAW)
    assert files.golden().mean_gain.tolist() == [(1.0 - 0.5) / 2, (3.0 + 0.75) / 2]


def test_without_raw_files_gains_are_unknown(files):
    files.put(at_0_2_score=SCORES)
    selection = publish_selection(files.store, files.imported().name, TopK(1))
    report = (Path(selection.folder) / "report.md").read_text()
    assert "| mean gain in | nats per anchor" in report
    assert "| 1 | 1.000 | 2 | 2/2 | unknown | yes | 1 | Count. | 1 |" in report
    golden = files.golden()
    assert golden.golden_score.tolist() == [0.5, 1.0]
    assert all(math.isnan(gain) for gain in golden.mean_gain)


def test_files_of_several_ranges_are_joined_with_or_without_raw_sums(files):
    files.put(at_2_4_score={"2": [0.0], "3": [0.5]}, at_0_2_score=SCORES, at_0_2_raw_score=RAW)
    files.put(at_1_3_score={"1": [1.0], "2": [0.0]})
    files.put(at_notes="not a score file", at_0_2_score_old="{")
    golden = files.golden()
    assert golden.candidate_rows.tolist() == [0, 1, 2, 3]
    assert golden.golden_score.tolist() == [0.5, 1.0, 0.0, 0.5]
    assert golden.mean_gain.tolist()[:2] == [0.25, 1.875]
    assert all(math.isnan(gain) for gain in golden.mean_gain[2:])


def test_of_several_iterations_the_last_is_the_score(files):
    files.put(at_0_2_score={"0": [0.0, 0.5], "1": [0.5, 1.0]})
    assert read_released_scores(files.folder) == ReleasedScores({0: 0.5, 1: 1.0}, {}, ("0_2_score.json",))


@pytest.mark.parametrize("count", [3, 7, 100, 1000])
def test_every_share_of_the_anchors_is_read_as_a_number_of_wins(files, count):
    (files.root / "anchors.json").write_text(json.dumps([{**ANCHORS[0], "input": str(i)} for i in range(count)]))
    for wins in sorted({0, 1, count // 2, count - 1, count}):
        folder = files.root / str(wins)
        folder.mkdir()
        (folder / "0_1_score.json").write_text(json.dumps({"0": [wins / count]}))
        files.folder = folder
        golden = files.golden()
        assert (golden.wins.tolist(), golden.golden_score.tolist()) == ([wins], [wins / count])


def test_two_files_that_disagree_about_a_row_are_refused(files):
    files.put(at_0_2_score=SCORES, at_1_2_score={"1": [0.5]})
    assert files.refusal() == (f"{files.folder}/1_2_score.json: row 1 has 0.5, another file in {files.folder} has 1.0")


@pytest.mark.parametrize("name", ["0_2_score", "0_2_raw_score"])
def test_a_damaged_file_is_named(files, name):
    files.put(at_0_2_score=SCORES, at_0_2_raw_score=RAW)
    files.put(**{f"at_{name}": '{"0": [0.5'})
    said = files.refusal()
    assert said.startswith(f"{files.folder}/{name}.json is not JSON (")
    assert said.endswith("): copy it again, or move it away")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0_2_score", [0.5, 1.0]),
        ("0_2_score", {"zero": [0.5]}),
        ("0_2_score", {"0": 0.5}),
        ("0_2_score", {"0": []}),
        ("0_2_score", {"0": ["0.5"]}),
        ("0_2_score", {"0": [None]}),
        ("0_2_score", {"0": [float("nan")]}),
        ("0_2_score", RAW),
        ("0_2_raw_score", SCORES),
        ("0_2_raw_score", {"0": [[-1.0, "x"], [-1.0, -2.0]]}),
    ],
)
def test_a_file_of_another_shape_is_named(files, name, content):
    files.put(at_0_1_score={"0": [0.5]})
    files.put(**{f"at_{name}": content})
    found = "lists of sums" if "raw" in name else "win rates"
    assert files.refusal() == (
        f"{files.folder}/{name}.json does not map pool rows to {found}: it was not written by the authors' program"
    )


def test_rates_that_are_no_share_of_the_anchors_are_refused(files):
    files.put(at_0_2_score={"0": [0.5], "1": [1 / 3]})
    assert files.refusal() == (
        "row 1 has win rate 0.3333333333333333, which is no share of 2 anchors: give the file that was their "
        "--test_path as anchor file"
    )


@pytest.mark.parametrize("rate", [1.5, -0.5])
def test_rates_outside_0_to_1_are_refused(files, rate):
    files.put(at_0_2_score={"0": [rate]})
    assert files.refusal().startswith(f"row 0 has win rate {rate}, which is no share of 2 anchors")


@pytest.mark.parametrize("raw", [[[-1.0] * 3, [-2.0] * 3], [[-1.0] * 2, [-2.0] * 3], [[-1.0] * 2]])
def test_raw_sums_that_do_not_fit_the_anchors_are_refused(files, raw):
    files.put(at_0_2_score=SCORES, at_0_2_raw_score={"1": raw})
    sizes = " and ".join(str(len(side)) for side in raw)
    assert files.refusal() == (
        f"row 1 has raw sums for {sizes} anchors, not zero-shot and one-shot sums for the 2 of the anchor file"
    )


def test_rows_beyond_the_pool_are_refused(files):
    files.put(at_0_2_score=SCORES, at_3_9_score={"3": [0.5], "4": [0.5], "8": [0.0]})
    assert files.refusal() == (
        f"the score files name row 8, but pool '{files.root}/pool.json' has 4 rows: "
        "give the file that was their --prompt_path"
    )


def test_of_equal_pool_rows_the_first_keeps_its_score_and_the_others_are_counted(files):
    files.pool([POOL[0], POOL[1], POOL[0], "not usable", POOL[2]])
    files.put(at_0_5_score={"0": [0.5], "1": [1.0], "2": [1.0], "3": [0.5], "4": [0.0]})
    run = files.imported()
    golden = files.golden(run.name)
    assert golden.candidate_rows.tolist() == [0, 1, 4]
    assert golden.golden_score.tolist() == [0.5, 1.0, 0.0]
    assert run.counts == {
        "rows": 5,
        "examples": 3,
        "anchors": 2,
        "imported_scores": 3,
        "examples_without_score": 0,
        "scores_of_unusable_or_duplicate_rows": 2,
    }


def test_files_about_other_rows_only_are_refused(files):
    files.pool([POOL[0], "not usable"])
    files.put(at_1_2_score={"1": [1.0]})
    assert files.refusal() == (
        "no usable example of the pool has a score in the files: pool and files do not belong together"
    )


def test_a_folder_without_score_files_is_refused(files):
    with pytest.raises(UsageError, match=f"^'{files.root}/none' is not a folder: "):
        read_released_scores(files.root / "none")
    files.put(at_0_2_raw_score=RAW)
    with pytest.raises(UsageError) as refused:
        files.imported()
    assert str(refused.value) == (
        f"no {{start}}_{{end}}_score.json in '{files.folder}': give the folder that holds these files"
    )


def test_the_default_name_is_the_same_for_the_same_files_and_another_for_others(files):
    files.put(at_0_2_score=SCORES)
    first = files.imported()
    assert first.name.startswith("imported-")
    assert files.imported().name == first.name
    files.put(at_0_2_raw_score=RAW)  # now gains are known, which changes the order of equals
    second = files.imported()
    assert second.name != first.name
    files.put(at_2_3_score={"2": [0.0]})
    assert len({first.name, second.name, files.imported().name}) == 3


def test_a_run_is_not_overwritten_by_other_scores_under_its_name(files):
    files.put(at_0_2_score=SCORES)
    files.imported(run="theirs")
    before = files.store.read("runs/theirs/golden.parquet")
    files.put(at_2_3_score={"2": [0.0]})
    with pytest.raises(UsageError, match=r"^run 'theirs' exists with other inputs: .* \(imported: "):
        files.imported(run="theirs")
    assert files.store.read("runs/theirs/golden.parquet") == before


def test_cuts_of_an_imported_run_are_folders_of_their_own_and_none_is_overwritten(files):
    raw = {"2": [[-4.0, -8.0], [-3.0, -9.0]], "3": [[-4.0, -8.0], [-5.0, -9.0]]}
    files.put(at_0_4_score={"0": [0.5], "1": [1.0], "2": [0.5], "3": [0.0]}, at_0_4_raw_score=RAW | raw)
    files.imported(run="theirs")
    url = files.store.url
    first = publish_selection(files.store, "theirs", Threshold(0.5))
    folder = first.path
    assert folder.startswith("runs/theirs/selections/threshold-0.5/") and first.folder == f"{url}/{folder}"
    assert (first.candidates, first.kept, first.already_there) == (4, 1, False)
    lines = files.store.read(f"{folder}/selected.jsonl").decode().splitlines()
    key = key_of(POOL[1])
    assert [json.loads(line) for line in lines] == [{**POOL[1], "golden_score": 1.0, "rank": 1, "example_id": key}]
    scores = pq.read_table(f"{url}/{folder}/scores.parquet").to_pydict()
    assert scores["candidate_id"] == sorted(map(key_of, POOL))
    rows = zip(scores["candidate_row"], scores["golden_score"], scores["kept"], strict=True)
    assert sorted(rows) == [(0, 0.5, False), (1, 1.0, True), (2, 0.5, False), (3, 0.0, False)]
    before = {path: files.store.read(path) for path in files.store.list("")}

    second = publish_selection(files.store, "theirs", TopK(3))
    assert second.path.startswith("runs/theirs/selections/top-k-3/") and second.kept == 3
    rows = [json.loads(line) for line in files.store.read(f"{second.path}/selected.jsonl").splitlines()]
    assert [(row["rank"], row["instruction"], row["golden_score"]) for row in rows] == [
        (1, "Count.", 1.0),
        (2, "Add.", 0.5),
        (3, "Name a colour.", 0.5),
    ]
    assert rows[1]["source"] == "a"
    assert {path: files.store.read(path) for path in before} == before
    assert [item.name for item in list_selections(files.store, "theirs")] == ["threshold-0.5", "top-k-3"]

    everything = {path: files.store.read(path) for path in files.store.list("")}
    again = publish_selection(files.store, "theirs", Threshold(0.5))
    assert (again.already_there, again.kept, again.shown) == (True, 1, first.shown)
    assert {path: files.store.read(path) for path in files.store.list("")} == everything
    report = files.store.read(f"{second.path}/report.md").decode()
    assert "| kept | 3 of 4 candidates |" in report


def test_a_selection_from_a_table_with_nan_is_json_that_every_reader_takes(files):
    rows = [{**row, "source": None, "score": float("nan"), "more": [float("inf"), 1.0]} for row in POOL]
    pq.write_table(pa.Table.from_pylist(rows), files.root / "pool.parquet")
    files.put(at_0_2_score=SCORES)
    pool, anchors = str(files.root / "pool.parquet"), str(files.root / "anchors.json")
    run = import_scores(files.store, files.folder, pool=pool, anchor_file=anchors)
    selection = publish_selection(files.store, run.name, TopK(1))

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    (line,) = Path(selection.folder, "selected.jsonl").read_text().splitlines()
    found = json.loads(line, parse_constant=refuse)
    assert {name: found[name] for name in ("instruction", "source", "score", "more", "golden_score")} == {
        "instruction": "Count.",
        "source": None,
        "score": None,
        "more": [None, 1.0],
        "golden_score": 1.0,
    }
