"""What is still to be scored."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuggets.racing.work_list import WorkItem, count_cells, read_worklist, work_items, write_worklist
from nuggets.store.store import Store

WORKLIST = {
    "pools/p/shard-00001.parquet": [WorkItem("x", (0, 2)), WorkItem("y", (1,))],
    "pools/p/shard-00000.parquet": [WorkItem("z", (2,))],
}


def test_an_item_is_a_candidate_with_the_anchors_that_it_is_to_be_measured_on():
    cells = np.array(
        [[True, True, True], [False, True, False], [False, False, False], [True, False, True]],
    )
    assert work_items(list("wxyz"), cells) == [
        WorkItem("w", (0, 1, 2)),
        WorkItem("x", (1,)),
        WorkItem("z", (0, 2)),
    ]


def test_nothing_to_do_is_no_item():
    assert work_items(["x"], np.zeros((1, 3), dtype=bool)) == []
    assert work_items([], np.zeros((0, 3), dtype=bool)) == []
    assert work_items(["x"], np.zeros((1, 0), dtype=bool)) == []


@given(arrays(np.bool_, st.tuples(st.integers(0, 8), st.integers(0, 6))))
def test_items_hold_every_true_once_and_no_other_in_the_order_of_the_candidates(cells):
    ids = [f"c{row}" for row in range(len(cells))]
    items = work_items(ids, cells)
    assert [(item.candidate_id, anchor) for item in items for anchor in item.anchors] == [
        (ids[row], column) for row, column in np.argwhere(cells).tolist()
    ]
    assert len({item.candidate_id for item in items}) == len(items)
    assert count_cells({"shard": items}) == cells.sum()


def test_cells_are_counted_over_all_shards():
    assert count_cells(WORKLIST) == 4
    assert count_cells({}) == 0


def test_a_worklist_comes_back_as_it_was_written_shards_in_their_order(tmp_path):
    store = Store(str(tmp_path))
    found = read_worklist(store, write_worklist(store, "runs/r/worklists", WORKLIST))
    assert found == WORKLIST
    assert list(found) == list(WORKLIST)
    assert all(isinstance(index, int) for items in found.values() for item in items for index in item.anchors)
    assert read_worklist(store, write_worklist(store, "runs/r/worklists", {})) == {}


def test_a_worklists_content_names_it(tmp_path):
    store = Store(str(tmp_path))
    first = write_worklist(store, "runs/r/worklists", WORKLIST)
    assert write_worklist(store, "runs/r/worklists", WORKLIST) == first
    assert first.startswith("runs/r/worklists/") and first.endswith(".json")
    assert store.list("") == [first]
    others = [
        {**WORKLIST, "pools/p/shard-00000.parquet": [WorkItem("z", (1,))]},
        {**WORKLIST, "pools/p/shard-00000.parquet": [WorkItem("y", (2,))]},
        {"pools/p/shard-00001.parquet": WORKLIST["pools/p/shard-00001.parquet"]},
        {},
    ]
    assert len({first, *(write_worklist(store, "runs/r/worklists", other) for other in others)}) == 5
    assert read_worklist(store, first) == WORKLIST


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
        st.lists(st.builds(WorkItem, st.text(max_size=3), st.lists(st.integers(0, 99), max_size=3).map(tuple))),
        max_size=3,
    )
)
@settings(max_examples=40)
def test_any_worklist_comes_back(tmp_path_factory, worklist):
    store = Store(str(tmp_path_factory.mktemp("store")))
    assert read_worklist(store, write_worklist(store, "w", worklist)) == worklist
