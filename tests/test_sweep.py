"""All cells of an ingested pool, whatever pools and tasks the blocks were written for."""

import gc
import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.cells.blocks import CellBlock, read_block, write_block
from nuggets.cells.folders import cells_folder, compact, list_blocks
from nuggets.cells.sweep import ShardCells, sweep_cells
from nuggets.errors import StoreError
from nuggets.examples import Example, example_id
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.shards import Pool
from nuggets.store.store import Store

KEY = "key"
ANCHORS = ("a0", "a1", "a2")
NAN = float("nan")


def key(number: int) -> str:
    """The id of a pool's example of this number."""
    return example_id(Example(f"Count to {number}.", "", "Done."))


def cell(number: int, anchor: str) -> float:
    """The one right value of a cell, which float32 holds exactly."""
    return -number - int(anchor[1:]) / 8


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def pool_of(store: Store, numbers: Iterable[int], *, shard_size: int) -> Pool:
    """A pool of examples with these numbers, in this order in its file, ingested as it always is."""
    rows = [{"instruction": f"Count to {number}.", "output": "Done."} for number in numbers]
    file = Path(store.url).with_name("pool.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = find_source(str(file))
    return ingest_pool(
        store, source, source_digest(source), shard_size=shard_size, max_row_bytes=10_000, max_rejected_share=0.0
    )


def block_of(numbers: Sequence[int], anchors: Sequence[str]) -> CellBlock:
    values = np.array([[cell(number, anchor) for anchor in anchors] for number in numbers], dtype=np.float32)
    return CellBlock(tuple(map(key, numbers)), tuple(anchors), values.reshape(len(numbers), len(anchors)))


def put(store: Store, numbers: Sequence[int], anchors: Sequence[str] = ANCHORS) -> str:
    return write_block(store, cells_folder(KEY, [key(number) for number in numbers]), block_of(numbers, anchors))


def score_as_a_task_does(store: Store, numbers: Iterable[int], shard_size: int, anchors: Sequence[str]) -> None:
    """A block for each shard that a pool of these numbers would have."""
    ordered = sorted(numbers, key=key)
    for start in range(0, len(ordered), shard_size):
        put(store, ordered[start : start + shard_size], anchors)


def swept(store: Store, pool: Pool, anchors: Sequence[str] = ANCHORS) -> dict[str, list[float | None]]:
    """Every candidate's cells with None in place of NaN, after checks of the other fields of a sweep."""
    table: dict[str, list[float | None]] = {}
    for number, shard in enumerate(sweep_cells(store, KEY, pool.shards, anchors)):
        assert (shard.index, len(shard.candidate_ids)) == (number, pool.shard_examples[number])
        assert (shard.values.dtype, shard.values.shape) == (np.float32, (len(shard.candidate_ids), len(anchors)))
        table |= as_table(shard)
    assert list(table) == sorted(table)
    assert len(table) == pool.examples
    return table


def as_table(shard: ShardCells) -> dict[str, list[float | None]]:
    rows = [[None if np.isnan(value) else value for value in row] for row in shard.values.tolist()]
    return dict(zip(shard.candidate_ids.to_pylist(), rows, strict=True))


def expected(numbers: Iterable[int], known: Iterable[int], anchors: Sequence[str] = ANCHORS) -> dict[str, list]:
    known = set(known)
    return {
        key(number): [cell(number, anchor) if number in known else None for anchor in anchors] for number in numbers
    }


def test_a_pool_without_cells_is_swept_with_its_ids_and_rows(store):
    pool = pool_of(store, range(7), shard_size=3)
    assert swept(store, pool) == expected(range(7), [])
    shards = list(sweep_cells(store, KEY, pool.shards, []))
    assert [shard.candidate_rows.tolist() for shard in shards] == [
        sorted(range(7), key=key)[start : start + 3] for start in (0, 3, 6)
    ]
    assert [shard.values.shape for shard in shards] == [(3, 0), (3, 0), (1, 0)]


@pytest.mark.parametrize("written_for", [3, 10, 16, 100])
@pytest.mark.parametrize("shard_size", [4, 10, 100])
def test_blocks_written_for_shards_of_any_size_are_found(store, written_for, shard_size):
    pool = pool_of(store, range(40), shard_size=shard_size)
    score_as_a_task_does(store, range(40), written_for, ANCHORS)
    assert swept(store, pool) == expected(range(40), range(40))


@pytest.mark.parametrize("scored", [range(10, 25), range(-30, 80), range(20, 60), range(100, 130), [3]])
def test_blocks_of_a_part_a_whole_or_another_pool_are_found(store, scored):
    pool = pool_of(store, range(40), shard_size=6)
    score_as_a_task_does(store, scored, 8, ANCHORS)
    assert swept(store, pool) == expected(range(40), scored)


def test_blocks_of_other_anchors_are_found_as_far_as_they_reach(store):
    pool = pool_of(store, range(20), shard_size=6)
    score_as_a_task_does(store, range(20), 6, ("a1", "a9"))
    score_as_a_task_does(store, range(10), 4, ("a2", "a0"))
    score_as_a_task_does(store, range(20), 20, ("a7",))
    write_block(store, "cells/another/0-f", block_of(range(20), ANCHORS))
    anchors = ("a2", "a1", "a5", "a2")
    right = expected(range(20), range(20), anchors)
    assert swept(store, pool, anchors) == {
        key(number): [value if number < 10 else None, one, None, value if number < 10 else None]
        for number in range(20)
        for value, one, _, _ in [right[key(number)]]
    }


def test_a_damaged_block_is_swept_as_missing_and_named(store, caplog):
    pool = pool_of(store, range(20), shard_size=5)
    ordered = sorted(range(20), key=key)
    paths = [put(store, ordered[start : start + 4]) for start in range(0, 20, 4)]
    Path(store.url, paths[2]).write_bytes(b"damaged")
    assert swept(store, pool) == expected(range(20), [*ordered[:8], *ordered[12:]])
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"{store.url}/{paths[2]} is damaged (")
    assert store.list("damaged") == [f"damaged/{paths[2]}"]


def test_a_block_joined_between_listing_and_reading_is_read_once(store, monkeypatch):
    pool = pool_of(store, range(24), shard_size=8)
    ordered = sorted(range(24), key=key)
    folders = [cells_folder(KEY, [key(number) for number in ordered[at : at + 8]]) for at in (0, 8, 16)]
    for at, folder in zip((0, 8, 16), folders, strict=True):
        for number in ordered[at : at + 8]:  # eight commits of a task that is not done yet
            write_block(store, folder, block_of([number], ANCHORS))
    sweep = sweep_cells(store, KEY, pool.shards, ANCHORS)
    table = as_table(next(sweep))
    for folder in folders:
        compact(store, folder)
    read: list[str] = []

    def counted(store: Store, path: str, anchor_ids: Sequence[str] | None = None) -> CellBlock | None:
        block = read_block(store, path, anchor_ids)
        read.append(path)
        return block

    monkeypatch.setattr("nuggets.cells.sweep.read_block", counted)
    monkeypatch.setattr("nuggets.cells.folders.read_block", counted)
    for shard in sweep:
        table |= as_table(shard)
    assert table == expected(range(24), range(24))
    assert read == [path for folder in folders[1:] for path in list_blocks(store, folder)]


def test_conflicting_cells_are_counted_once_each_also_after_blocks_were_joined(store):
    pool = pool_of(store, range(12), shard_size=6)
    ordered = sorted(range(12), key=key)
    folder = cells_folder(KEY, [key(number) for number in ordered])
    right = block_of(ordered, ANCHORS)
    write_block(store, folder, right)
    for rows, less in ((slice(0, 3), 1.0), (slice(0, 2), 2.0), (slice(8, 9), 1.0), (slice(3, 6), 0.0)):
        part = CellBlock(right.candidate_ids[rows], ANCHORS[:2], right.values[rows, :2] - np.float32(less))
        write_block(store, folder, part)
    for _ in range(2):
        shards = list(sweep_cells(store, KEY, pool.shards, ANCHORS))
        assert [shard.conflicts for shard in shards] == [6, 2]
        assert [shard.conflicts for shard in sweep_cells(store, KEY, pool.shards, ANCHORS[1:])] == [3, 1]
        compact(store, folder)
    assert len(list_blocks(store, folder)) == 3


def test_a_folder_whose_blocks_are_all_gone_is_swept_as_missing(store):
    pool = pool_of(store, range(12), shard_size=6)
    ordered = sorted(range(12), key=key)
    put(store, ordered[:6])
    gone = put(store, ordered[6:])
    sweep = sweep_cells(store, KEY, pool.shards, ANCHORS)
    table = as_table(next(sweep))
    store.remove(gone)
    assert table | as_table(next(sweep)) == expected(range(12), ordered[:6])


@pytest.mark.parametrize("written_for", [8, 15])
def test_no_more_blocks_are_in_memory_than_reach_into_the_shard_in_hand(store, written_for):
    pool = pool_of(store, range(60), shard_size=10)
    score_as_a_task_does(store, range(60), written_for, ANCHORS)
    ordered = sorted(map(key, range(60)))
    written = [set(ordered[start : start + written_for]) for start in range(0, 60, written_for)]
    gc.collect()
    for shard in sweep_cells(store, KEY, pool.shards, ANCHORS):
        alive = sum(type(item) is CellBlock for item in gc.get_objects())
        assert alive == sum(not block.isdisjoint(shard.candidate_ids.to_pylist()) for block in written)


def test_a_pool_whose_shards_are_not_in_the_order_of_ids_is_refused(store):
    pool = pool_of(store, range(12), shard_size=4)
    score_as_a_task_does(store, range(12), 4, ANCHORS)
    shards = (pool.shards[0], pool.shards[2], pool.shards[1])
    sweep = sweep_cells(store, KEY, shards, ANCHORS)
    assert [next(sweep).index, next(sweep).index] == [0, 1]
    with pytest.raises(StoreError) as refused:
        next(sweep)
    assert str(refused.value) == (
        f"{store.url}/{shards[2]} is not in the order of example ids: delete {store.url}/pools/{pool.id} and run "
        "nuggets curate again; no cell is computed again"
    )


def test_a_sweep_sees_all_earlier_cells_while_others_write_and_join(store):
    pool = pool_of(store, range(30), shard_size=6)
    ordered = sorted(range(30), key=key)
    stored: list[int] = []
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            mine = ordered[start : start + 10]  # as for another pool: folders and shards cut each other
            folder = cells_folder(KEY, [key(number) for number in mine])
            for number in mine:
                write_block(store, folder, block_of([number], ANCHORS))
                stored.append(number)
                compact(store, folder)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 0, 10, 20)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        before = set(stored)
        found = swept(store, pool)
        for number in range(30):
            right = [cell(number, anchor) for anchor in ANCHORS]
            assert found[key(number)] in ([right] if number in before else [right, [None] * 3])
    assert failures == []
    assert swept(store, pool) == expected(range(30), range(30))


@given(data=st.data(), count=st.integers(1, 14), shard_size=st.integers(1, 6))
def test_a_sweep_of_any_blocks_in_any_folders_gives_the_same_table(tmp_path_factory, data, count, shard_size):
    store = Store(str(tmp_path_factory.mktemp("pool") / "store"))
    pool = pool_of(store, range(count), shard_size=shard_size)
    known: set[tuple[int, str]] = set()
    for _ in range(data.draw(st.integers(0, 6))):
        numbers = data.draw(st.lists(st.integers(0, count + 2), min_size=1, max_size=6, unique=True))
        anchors = data.draw(st.lists(st.sampled_from([*ANCHORS, "a3"]), min_size=1, unique=True))
        asked_too = data.draw(st.lists(st.integers(0, count + 2), max_size=2))  # of the same task, not computed yet
        folder = cells_folder(KEY, [key(number) for number in (*numbers, *asked_too)])
        block = block_of(numbers, anchors)
        holes = data.draw(st.sets(st.tuples(st.sampled_from(numbers), st.sampled_from(anchors)), max_size=3))
        for number, anchor in holes:
            block.values[numbers.index(number), anchors.index(anchor)] = NAN
        known |= {(number, anchor) for number in numbers for anchor in anchors} - holes
        write_block(store, folder, block)
        if data.draw(st.booleans()):
            compact(store, folder)
    assert swept(store, pool) == {
        key(number): [cell(number, anchor) if (number, anchor) in known else None for anchor in ANCHORS]
        for number in range(count)
    }
