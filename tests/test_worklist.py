"""What is still to be scored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuggets.store import Store
from nuggets.worklist import Batch, missing_batches, read_worklist, write_worklist

NAN = float("nan")


def test_candidates_that_lack_the_same_anchors_are_one_batch():
    cells = np.array(
        [
            [NAN, NAN, NAN],
            [1.0, NAN, 3.0],
            [1.0, 2.0, 3.0],
            [NAN, NAN, NAN],
            [4.0, NAN, 6.0],
            [NAN, 5.0, NAN],
        ],
        dtype=np.float32,
    )
    assert missing_batches(list("uvwxyz"), cells) == [
        Batch(("u", "x"), (0, 1, 2)),
        Batch(("v", "y"), (1,)),
        Batch(("z",), (0, 2)),
    ]


def test_a_full_table_and_an_empty_one_need_no_work():
    assert missing_batches(["x"], np.zeros((1, 3), dtype=np.float32)) == []
    assert missing_batches([], np.zeros((0, 3), dtype=np.float32)) == []
    assert missing_batches(["x"], np.zeros((1, 0), dtype=np.float32)) == []


def test_an_infinite_cell_is_a_cell():
    assert missing_batches(["x"], np.array([[-np.inf]], dtype=np.float32)) == []


def test_a_batch_counts_its_cells():
    assert Batch(("x", "y"), (0, 4, 7)).cells == 6
    assert Batch((), (0,)).cells == 0


def test_candidates_and_cells_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError):
        missing_batches(["x", "y"], np.full((1, 2), NAN, dtype=np.float32))


@given(arrays(np.float32, st.tuples(st.integers(0, 8), st.integers(0, 6)), elements=st.sampled_from([0.0, NAN])))
@settings(deadline=None)
def test_batches_hold_every_missing_cell_once_and_no_other(cells):
    ids = [f"c{row}" for row in range(len(cells))]
    batches = missing_batches(ids, cells)
    listed = [(candidate, anchor) for item in batches for candidate in item.candidate_ids for anchor in item.anchors]
    assert sorted(listed) == sorted(
        (ids[row], column) for row, column in zip(*np.nonzero(np.isnan(cells)), strict=True)
    )
    assert len({item.anchors for item in batches}) == len(batches)
    assert sum(item.cells for item in batches) == len(listed)


def test_a_worklist_comes_back_as_it_was_written(tmp_path):
    store = Store(str(tmp_path))
    batches = [Batch(("x", "y"), (0, 2)), Batch(("z",), (1,))]
    write_worklist(store, "runs/r/worklists/shard-00000.json", batches)
    assert read_worklist(store, "runs/r/worklists/shard-00000.json") == batches
    write_worklist(store, "runs/r/worklists/shard-00000.json", [])
    assert read_worklist(store, "runs/r/worklists/shard-00000.json") == []
