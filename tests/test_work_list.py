"""Work lists: which cells a scoring task computes, in a few bytes per candidate."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuggets.errors import StoreError
from nuggets.racing.work_list import (
    ShardWork,
    Worklist,
    count_cells,
    join_work,
    read_worklist,
    shard_work,
    split_work,
    write_worklist,
)
from nuggets.store.parquet import table_bytes
from nuggets.store.store import Store

FIRST, SECOND = "pools/p/shard-00000.parquet", "pools/p/shard-00001.parquet"


def work(positions: list[int], cells: list[list[int]]) -> ShardWork:
    return ShardWork(np.array(positions), np.array(cells, dtype=bool))


WORKLIST = {SECOND: work([3, 7], [[1, 0, 1], [0, 1, 0]]), FIRST: work([0], [[0, 0, 1]])}


def as_lists(worklist: Worklist) -> list[tuple[str, list[int], list[list[bool]]]]:
    return [(shard, item.positions.tolist(), item.cells.tolist()) for shard, item in worklist.items()]


@given(arrays(np.bool_, st.tuples(st.integers(0, 8), st.integers(0, 6))))
def test_the_work_of_a_shard_is_every_cell_of_the_mask_and_no_candidate_without_one(cells):
    found = shard_work(cells)
    assert found.positions.tolist() == [row for row, wanted in enumerate(cells.tolist()) if any(wanted)]
    assert found.cells.tolist() == [wanted for wanted in cells.tolist() if any(wanted)]
    assert count_cells({"shard": found}) == cells.sum()


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.just(3)), elements=st.just(True)), st.data())
def test_pieces_of_work_are_even_and_join_to_the_whole(cells, data):
    whole = shard_work(cells)
    pieces = split_work(whole, data.draw(st.integers(1, len(cells))))
    sizes = [len(piece.positions) for piece in pieces]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert as_lists({"": join_work(pieces)}) == as_lists({"": whole})


def test_cells_are_counted_over_all_shards():
    assert count_cells(WORKLIST) == 4
    assert count_cells({}) == 0


def test_a_worklist_is_read_as_it_was_written_shards_in_their_order(tmp_path: Path):
    store = Store(str(tmp_path))
    found = read_worklist(store, write_worklist(store, "runs/r/worklists", WORKLIST))
    assert as_lists(found) == as_lists(WORKLIST)
    assert read_worklist(store, write_worklist(store, "runs/r/worklists", {})) == {}


def test_the_content_of_a_worklist_is_its_name(tmp_path: Path):
    store = Store(str(tmp_path))
    first = write_worklist(store, "runs/r/worklists", WORKLIST)
    assert write_worklist(store, "runs/r/worklists", WORKLIST) == first
    assert first.startswith("runs/r/worklists/") and first.endswith(".parquet")
    assert store.list("") == [first]
    others = [
        {**WORKLIST, FIRST: work([0], [[0, 1, 0]])},
        {**WORKLIST, FIRST: work([1], [[0, 0, 1]])},
        {SECOND: WORKLIST[SECOND]},
        {},
    ]
    assert len({first, *(write_worklist(store, "runs/r/worklists", other) for other in others)}) == 5
    assert as_lists(read_worklist(store, first)) == as_lists(WORKLIST)


@pytest.mark.parametrize(("share", "bytes_per_candidate"), [(1.0, 8), (0.5, 24)])
def test_a_worklist_takes_a_few_bytes_per_candidate(tmp_path: Path, share: float, bytes_per_candidate: int):
    store = Store(str(tmp_path))
    cells = np.random.default_rng(0).random((512, 100)) < share
    path = write_worklist(store, "w", {FIRST: shard_work(cells)})
    assert len(store.read(path)) < 512 * bytes_per_candidate  # a cell takes 400 bytes per candidate


def test_a_worklist_of_another_format_is_refused_by_its_number(tmp_path: Path):
    store = Store(str(tmp_path))
    store.write("w/x.parquet", table_bytes({"shard": ["a"]}, metadata={"format_version": "7"}))
    with pytest.raises(StoreError, match="is a work list of format 7, this program reads format 1: run nuggets curate"):
        read_worklist(store, "w/x.parquet")


@st.composite
def worklists(draw: st.DrawFn) -> Worklist:
    anchors = draw(st.integers(1, 20))
    shards = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=3, unique=True))
    masks = {shard: draw(arrays(np.bool_, st.tuples(st.integers(1, 5), st.just(anchors)))) for shard in shards}
    return {shard: shard_work(cells) for shard, cells in masks.items() if cells.any()}


@given(worklists())
def test_any_worklist_is_read_as_it_was_written(tmp_path_factory, worklist):
    store = Store(str(tmp_path_factory.mktemp("store")))
    assert as_lists(read_worklist(store, write_worklist(store, "w", worklist))) == as_lists(worklist)
