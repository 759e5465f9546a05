"""A run's cells and scores as files for other programs."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nuggets
from flows.cli.commands import app, run_command
from nuggets.anchors.anchor_set import Anchor, AnchorSet, write_anchor_set
from nuggets.anchors.baseline import Baseline, write_baseline
from nuggets.cells.blocks import CellBlock, write_block
from nuggets.cells.folders import cells_folder
from nuggets.errors import StoreError, UsageError
from nuggets.examples import Example, example_id
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.shards import Pool, read_ids
from nuggets.runs.manifest import RunState, open_run, record_state
from nuggets.scores.cuts import Threshold, TopK
from nuggets.scores.golden import ScoreTable
from nuggets.scores.score_table import write_score_table
from nuggets.steps.export import ExportedCells, ExportedScores, export_cells, export_scores
from nuggets.steps.import_released import import_scores
from nuggets.steps.publish import publish_selection
from nuggets.steps.table_file import write_tables
from nuggets.store.store import Store

POOL = [{"instruction": f"Count to {number}.", "input": "", "output": "Done."} for number in range(5)]
IDS = [example_id(Example(*row.values())) for row in POOL]
BY_ID = sorted(range(5), key=IDS.__getitem__)
ANCHORS = [Anchor(name, None, Example(name, "", "x")) for name in ("A", "B", "A")]  # one occurs twice
ZERO_SHOT = {"A": -1.5, "B": -2.5}
KEY = "key"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def pool(store: Store, tmp_path: Path) -> Pool:
    """Five examples in three shards; the cell of number n and anchor A is -n, B's is there for numbers above 2."""
    (tmp_path / "pool.json").write_text(json.dumps(POOL))
    source = find_source(str(tmp_path / "pool.json"))
    pool = ingest_pool(store, source, source_digest(source), shard_size=2, max_row_bytes=10_000, max_rejected_share=0.0)
    values = np.array([[-n, -n / 2 if n > 2 else np.nan] for n in range(5)], dtype=np.float32)
    write_block(store, cells_folder(KEY, IDS), CellBlock(tuple(IDS), ("A", "B"), values))
    sums = np.array([-1.5, -2.5], dtype=np.float32)
    write_baseline(store, KEY, ["A", "B"], Baseline(sums, np.array([1, 1], dtype=np.int32)))
    write_anchor_set(store, "anchors/a.json", AnchorSet(tuple(ANCHORS)))
    open_run(store, "r", config={}, identity={}, inputs={})
    references = {"pool": pool.id, "anchors": "anchors/a.json", "scoring_key": KEY}
    record_state(store, "r", RunState.INTERRUPTED, references=references)
    return pool


def test_cells_are_one_row_each_with_both_sums_and_those_not_computed_are_left_out(store, pool, tmp_path):
    out = tmp_path / "cells.parquet"
    assert export_cells(store, "r", out) == ExportedCells(written=12, left_out=3, lost=0)
    rows = [tuple(row.values()) for row in pq.read_table(out).to_pylist()]
    assert rows == [
        (IDS[n], n, name, place, ZERO_SHOT[name], -n / 2 if name == "B" else -float(n))
        for n in BY_ID
        for place, name in enumerate("ABA")
        if name == "A" or n > 2
    ]
    assert pq.read_table(out).column_names == [
        "candidate_id",
        "candidate_row",
        "anchor_id",
        "anchor_row",
        "zero_shot",
        "one_shot",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.parquet", "pool.json", "store"]


def test_a_run_that_was_not_scored_here_has_no_cells(store, pool, tmp_path):
    open_run(store, "new", config={}, identity={}, inputs={})
    with pytest.raises(UsageError, match="^run 'new' is running and has no cells: it was not scored here$"):
        export_cells(store, "new", tmp_path / "cells.parquet")


def test_a_place_that_can_not_be_written_is_named(store, pool, tmp_path):
    for out in (tmp_path / "none" / "cells.parquet", tmp_path / "pool.json" / "cells.parquet"):
        with pytest.raises(StoreError) as refused:
            export_cells(store, "r", out)
        assert str(refused.value).startswith(f"could not write {out}: ")
        assert str(refused.value).endswith(". Give --out a path in a folder you may write")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(StoreError, match=f"^could not write {tmp_path}/folder.csv: .* Give --out a path "):
        export_cells(store, "r", tmp_path / "folder.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.csv", "pool.json", "store"]


@pytest.mark.parametrize("damage", ["damaged", "gone"])
def test_what_can_not_be_read_is_named_for_itself_and_an_earlier_export_stays(store, pool, tmp_path, damage):
    out = tmp_path / "cells.parquet"
    out.write_bytes(b"earlier")
    shard = Path(store.url, pool.shards[1])
    shard.unlink()
    if damage == "damaged":
        shard.write_bytes(b"damaged")
    with pytest.raises(StoreError if damage == "damaged" else FileNotFoundError) as refused:
        export_cells(store, "r", out)
    assert str(shard) in str(refused.value)
    assert "--out" not in str(refused.value)
    assert out.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.parquet", "pool.json", "store"]


def test_scores_are_exported_with_the_newest_or_the_named_cut(store, tmp_path):
    (tmp_path / "pool.json").write_text(json.dumps(POOL))
    (tmp_path / "anchors.json").write_text(json.dumps(POOL[:2]))
    (tmp_path / "theirs").mkdir()
    scores = {"0": [0.5], "1": [1.0], "2": [0.0], "3": [0.5]}
    (tmp_path / "theirs" / "0_4_score.json").write_text(json.dumps(scores))
    files = {"pool": str(tmp_path / "pool.json"), "anchor_file": str(tmp_path / "anchors.json")}
    import_scores(store, tmp_path / "theirs", run="r", **files)
    out = tmp_path / "scores.parquet"
    with pytest.raises(UsageError, match="^run 'r' has no selection yet, .*: make it with nuggets reselect$"):
        export_scores(store, "r", out, None)
    published = [publish_selection(store, "r", cut) for cut in (TopK(1), Threshold(0.25))]
    for name, selection, kept in ((None, published[1], {0, 1, 3}), (published[0].name, published[0], {1})):
        assert export_scores(store, "r", out, name) == ExportedScores(4, selection.name, selection.cut)
        assert out.read_bytes() == Path(selection.folder, "scores.parquet").read_bytes()
        pd.testing.assert_frame_equal(nuggets.load_scores("r", store.url, selection=name), pd.read_parquet(out))
        table = pq.read_table(out)
        rows = zip(*(table[column].to_pylist() for column in ("candidate_id", "golden_score", "kept")), strict=True)
        assert list(rows) == [(IDS[n], scores[str(n)][0], n in kept) for n in BY_ID if n < 4]
    with pytest.raises(UsageError, match="^run 'r' has no selection best; selections there: top-k-1, threshold-0.25$"):
        export_scores(store, "r", out, "best")


def test_the_format_is_what_the_name_ends_with_and_any_other_one_is_refused(store, pool, tmp_path):
    tables = {extension: tmp_path / f"cells{extension}" for extension in (".parquet", ".CSV", ".jsonl")}
    for out in tables.values():
        assert export_cells(store, "r", out).written == 12
    expected = pq.read_table(tables[".parquet"]).to_pylist()
    assert [json.loads(line) for line in tables[".jsonl"].open()] == expected
    with tables[".CSV"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row | {"zero_shot": float(row["zero_shot"]), "one_shot": float(row["one_shot"])} for row in rows] == [
        row | {"candidate_row": str(row["candidate_row"]), "anchor_row": str(row["anchor_row"])} for row in expected
    ]
    for export in (lambda out: export_cells(store, "r", out), lambda out: export_scores(store, "r", out, None)):
        for name in ("cells.xlsx", "cells"):
            with pytest.raises(
                UsageError, match=f"^out='.*/{name}' ends with .*: allowed are .parquet, .csv, .jsonl; or - for"
            ):
                export(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cells.CSV", "cells.jsonl", "cells.parquet", "pool.json", "store"
    ]  # fmt: skip


def test_what_is_unknown_is_empty_in_csv_and_null_in_json_lines_and_no_digit_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("nuggets.steps.table_file.ROWS_AT_ONCE", 2)
    table = pa.table(
        {"a": [float("nan"), 1 / 3, None], "b": pa.array([None, 0.1, 2], pa.float32()), "c": ["x", 'y,"', "é"]}
    )
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        assert write_tables(tmp_path / name, iter([table, table.slice(0, 1)])) == 4
    lines = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ['"a","b","c"', ',,"x"', f'{1 / 3!r},0.1,"y,"""', ',2,"é"', ',,"x"']
    assert [json.loads(line) for line in (tmp_path / "t.jsonl").open(encoding="utf-8")] == [
        {"a": None, "b": None, "c": "x"},
        {"a": 1 / 3, "b": float(np.float32(0.1)), "c": 'y,"'},
        {"a": None, "b": 2.0, "c": "é"},
        {"a": None, "b": None, "c": "x"},
    ]
    write_tables(tmp_path / "empty.csv", [table.slice(0, 0)])
    assert (tmp_path / "empty.csv").read_text() == '"a","b","c"\n'


def test_cells_are_loaded_as_a_frame_long_or_wide(store, pool):
    long = nuggets.load_cells("r", store.url)
    assert list(long.columns) == ["candidate_id", "candidate_row", "anchor_id", "anchor_row", "zero_shot", "one_shot"]
    assert len(long) == 12 and long.one_shot.dtype == np.float32
    wide = nuggets.load_cells("r", store.url, wide=True)
    assert list(wide.index) == [IDS[n] for n in BY_ID] and list(wide.columns) == [0, 1, 2]
    assert wide.loc[IDS[3]].tolist() == [-3.0, -1.5, -3.0]
    assert wide.loc[IDS[1]].isna().tolist() == [False, True, False]
    pivoted = long.pivot(index="candidate_id", columns="anchor_row", values="one_shot")
    pd.testing.assert_frame_equal(pivoted, wide, check_names=False, check_column_type=False)


def test_scores_are_loaded_as_a_frame_with_or_without_a_selection(store, pool):
    judged(store, pool)
    scores = nuggets.load_scores("r", store.url)
    assert scores.candidate_row.tolist() == BY_ID
    assert scores.golden_score.isna().tolist() == [n < 3 for n in BY_ID]
    assert scores.score_high[scores.candidate_row < 3].tolist() == pytest.approx([1 / 3] * 3)
    assert scores.kept.isna().all()
    with pytest.raises(UsageError, match="^run 'r' has no selection top-k-1; selections there: none$"):
        nuggets.load_scores("r", store.url, selection="top-k-1")


def test_importing_the_package_loads_no_library():
    code = (
        "import sys, nuggets; nuggets.load_scores; print({'pandas', 'torch', 'prefect', 'pyarrow'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def judged(store: Store, pool: Pool) -> None:
    """The run as if it were done: every candidate's cells counted as they are in the store."""
    parts = []
    for shard, path in enumerate(pool.shards):
        ids, rows = read_ids(store, path)
        cells = np.where(rows > 2, 3, 2).astype(np.int32)
        full = np.full(len(rows), 3, dtype=np.int32)
        shards = np.full(len(rows), shard, dtype=np.int32)
        parts.append(ScoreTable(ids, rows, shards, np.zeros_like(full), cells, full, np.zeros(len(rows))))
    write_score_table(store, "r", parts)
    record_state(store, "r", RunState.COMPLETE, counts={"cells_found": 12, "cells_computed": 0})


@pytest.mark.parametrize("done", [True, False], ids=["complete", "interrupted"])
def test_counted_cells_that_are_gone_are_an_error_unlike_those_of_a_race(store, pool, tmp_path, capsys, done):
    def cells() -> tuple[int, str, str]:
        command = ["cells", "r", "--store", store.url, "--out", str(tmp_path / "cells.csv")]
        return (run_command(lambda: app(command)), *capsys.readouterr())

    record_state(store, "r", RunState.INTERRUPTED, counts={"cells_found": 12, "cells_computed": 0})
    if done:
        judged(store, pool)
    needed = "did not need" if done else "has not computed, or did not need,"
    out = tmp_path / "cells.csv"
    assert cells() == (0, f"12 cells in {out}; the run {needed} 3 of its full table\n", "")
    (block,) = Path(store.url).glob("cells/*/*/*.parquet")
    block.write_bytes(b"damaged")
    code, said, complained = cells()
    assert (code, said) == (1, f"0 cells in {out}; the run {needed} 3 of its full table\n")
    assert complained.startswith(f"warning: {block} is damaged ")
    lost = "error: 12 cells that run 'r' had computed are not in its store any more"
    assert complained.splitlines()[1].startswith(lost) and "nuggets curate command of this run" in complained
    code, _, complained = cells()  # the damaged block has been quarantined
    assert code == 1 and complained.startswith(lost)
