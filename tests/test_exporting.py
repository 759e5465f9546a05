"""A run's cells and scores as files for other programs."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nuggets.anchors import Anchor, write_anchors
from nuggets.baseline import Baseline, write_baseline
from nuggets.cells import CellBlock, cells_folder, write_block
from nuggets.cuts import Threshold, TopK
from nuggets.errors import StoreError, UsageError
from nuggets.examples import Example, example_id
from nuggets.exporting import export_cells, export_scores
from nuggets.imported_scores import import_scores
from nuggets.pool import Pool, ingest_pool
from nuggets.publishing import publish_selection
from nuggets.readers import find_source, fingerprint
from nuggets.runs import RunState, note_outcome, open_run
from nuggets.store import Store

POOL = [{"instruction": f"Count to {number}.", "input": "", "output": "Done."} for number in range(5)]
IDS = [example_id(Example(*row.values())) for row in POOL]
BY_ID = sorted(range(5), key=IDS.__getitem__)
ANCHORS = [Anchor(name, None, Example(name, "", "x")) for name in ("A", "B", "A")]  # one stands twice
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
    pool = ingest_pool(store, source, fingerprint(source), shard_size=2, max_row_bytes=10_000, max_rejected_share=0.0)
    values = np.array([[-n, -n / 2 if n > 2 else np.nan] for n in range(5)], dtype=np.float32)
    write_block(store, cells_folder(KEY, IDS), CellBlock(tuple(IDS), ("A", "B"), values))
    sums = np.array([-1.5, -2.5], dtype=np.float32)
    write_baseline(store, KEY, ["A", "B"], Baseline(sums, np.array([1, 1], dtype=np.int32)))
    write_anchors(store, "anchors/a.json", ANCHORS)
    open_run(store, "r", config={}, identity={}, inputs={})
    references = {"pool": pool.id, "anchors": "anchors/a.json", "scoring_key": KEY}
    note_outcome(store.url, "r", RunState.INTERRUPTED, references=references)
    return pool


def test_cells_are_one_row_each_with_both_sums_and_those_not_computed_are_left_out(store, pool, tmp_path):
    out = tmp_path / "cells.parquet"
    assert export_cells(store, "r", out) == 12
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
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=f"^could not write {tmp_path}/folder: .* Give --out a path "):
        export_cells(store, "r", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pool.json", "store"]


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
    with pytest.raises(UsageError, match="^run 'r' has no selection ; selections there: none$"):
        export_scores(store, "r", out, None)
    published = [publish_selection(store.url, "r", cut) for cut in (TopK(1), Threshold(0.25))]
    for name, selection, kept in ((None, published[1], {0, 1, 3}), (published[0].name, published[0], {1})):
        assert export_scores(store, "r", out, name) == 4
        assert out.read_bytes() == Path(selection.folder, "scores.parquet").read_bytes()
        table = pq.read_table(out)
        rows = zip(*(table[column].to_pylist() for column in ("candidate_id", "golden_score", "kept")), strict=True)
        assert list(rows) == [(IDS[n], scores[str(n)][0], n in kept) for n in BY_ID if n < 4]
    with pytest.raises(UsageError, match="^run 'r' has no selection best; selections there: top-k-1, threshold-0.25$"):
        export_scores(store, "r", out, "best")
