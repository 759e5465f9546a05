"""A table of cells kept in memory equals a fresh reading of the store, and reads each block once."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.cells.blocks import CellBlock, read_block, write_block
from nuggets.cells.folders import cells_folder, compact, list_blocks
from nuggets.cells.sweep import ShardCells
from nuggets.cells.table import CellTable
from nuggets.errors import StoreError
from nuggets.pools.shards import Pool
from nuggets.store.parquet import table_bytes
from nuggets.store.store import Store

KEY = "key"
ANCHORS = ("a0", "a1", "a0", "a2")  # one occurs twice
NAN = float("nan")
PLENTY = 1 << 30
CANDIDATES = [f"{number:02x}{'0' * 30}" for number in range(0, 200, 8)]


class CountingStore(Store):
    """A store that notes the blocks that are read from it."""

    __slots__ = ()
    opened: list[str] = []  # noqa: RUF012

    def open(self, path: str):  # noqa: ANN201
        if path.startswith("cells/"):
            self.opened.append(path)
        return super().open(path)


def put_pool(store: Store, sizes: Sequence[int] = (10, 3, 12)) -> Pool:
    """A pool of CANDIDATES in shards of these sizes; only their ids and rows are ever read here."""
    shards, start = [], 0
    for index, size in enumerate(sizes):
        ids = CANDIDATES[start : start + size]
        shards.append(f"pools/p/shard-{index:05d}.parquet")
        store.write(shards[-1], table_bytes({"example_id": ids, "row": list(range(start, start + size))}))
        start += size
    return Pool("p", "", start, start, 0, 0, {}, "", tuple(shards), tuple(sizes))


def block(random: random.Random) -> CellBlock:
    """Cells of some neighbouring candidates, some of another pool, with few values, so that conflicts are common."""
    start = random.randrange(len(CANDIDATES))
    ids = sorted({*CANDIDATES[start : start + random.randint(1, 9)], f"{random.randrange(200):02x}{'1' * 30}"})
    anchors = random.choice([("a0", "a1", "a2"), ("a1",), ("b0", "a2"), ("b0",)])
    values = [[random.choice([NAN, -1.0, -1.0, -1.0, -1.5]) for _ in anchors] for _ in ids]
    return CellBlock(tuple(ids), anchors, np.array(values, dtype=np.float32))


def table(store: Store, pool: Pool, *, memory: int = PLENTY) -> CellTable:
    return CellTable(store, KEY, pool, ANCHORS, memory=memory)


def contents(table: CellTable) -> list[tuple[int, list[str], list[int], bytes, int]]:
    def one(shard: ShardCells) -> tuple[int, list[str], list[int], bytes, int]:
        values = np.where(np.isnan(shard.values), np.float32(NAN), shard.values).tobytes()
        return shard.index, shard.candidate_ids.to_pylist(), shard.candidate_rows.tolist(), values, shard.conflicts

    table.refresh()
    return [one(shard) for shard in table.shards()]


def put(store: Store, random: random.Random) -> None:
    some = block(random)
    folder = random.choice(["", "0" * 8 + "-" + "f" * 8])  # its own range, or one that other tasks write to as well
    write_block(store, f"cells/{KEY}/{folder}" if folder else cells_folder(KEY, some.candidate_ids), some)


def join(store: Store, random: random.Random) -> None:
    for folder in {path.rpartition("/")[0] for path in list_blocks(store, f"cells/{KEY}")}:
        if random.random() < 0.7:
            compact(store, folder)


def damage(store: Store, random: random.Random) -> None:
    """A block is damaged on the disk, and another process reads it: it is quarantined."""
    if paths := list_blocks(store, f"cells/{KEY}"):
        path = random.choice(paths)
        store.write(path, b"damaged")
        assert read_block(store, path) is None


@given(st.lists(st.sampled_from([put, put, put, join, damage]), max_size=12), st.randoms(use_true_random=False))
def test_a_refreshed_table_is_what_a_fresh_reading_of_the_store_gives(tmp_path_factory, changes, random):
    store = Store(str(tmp_path_factory.mktemp("store")))
    pool = put_pool(store)
    kept = table(store, pool)
    for change in [None, *changes]:
        if change is not None:
            change(store, random)
        if random.random() < 0.7:  # several changes may happen between two rounds
            assert contents(kept) == contents(table(store, pool)) == contents(table(store, pool, memory=0))


def test_each_block_is_read_once_and_joined_ones_once_more(tmp_path: Path):
    store = CountingStore(str(tmp_path))
    pool = put_pool(store)
    folder = cells_folder(KEY, CANDIDATES)
    paths = [
        write_block(store, folder, CellBlock((CANDIDATES[row],), ("a0",), np.array([[-1.0]], dtype=np.float32)))
        for row in (0, 1, 24)
    ]
    kept = table(store, pool)

    def opened() -> set[str]:
        CountingStore.opened.clear()
        kept.refresh()
        return set(CountingStore.opened)

    assert opened() == set(paths)
    assert opened() == set()
    compact(store, folder)
    (joined,) = list_blocks(store, folder)
    assert opened() == {joined}
    CountingStore.opened.clear()
    assert [len(shard.candidate_ids) for shard in kept.shards()] == [10, 3, 12]
    assert CountingStore.opened == []


def test_a_table_larger_than_its_memory_is_read_from_the_store_each_time(tmp_path: Path):
    store = CountingStore(str(tmp_path))
    pool = put_pool(store)
    path = write_block(
        store, cells_folder(KEY, CANDIDATES), CellBlock((CANDIDATES[0],), ("a0",), np.full((1, 1), -1, np.float32))
    )
    CountingStore.opened.clear()
    needed = len(CANDIDATES) * (4 * len(ANCHORS) + 48)
    small, enough = table(store, pool, memory=needed - 1), table(store, pool, memory=needed)
    assert contents(small) == contents(small) == contents(enough) == contents(enough)
    assert CountingStore.opened == [path] * 3


def test_the_cells_of_a_table_cannot_be_changed_by_their_reader(tmp_path: Path):
    store = Store(str(tmp_path))
    kept = table(store, put_pool(store))
    kept.refresh()
    with pytest.raises(ValueError, match="read-only"):
        next(kept.shards()).values[0, 0] = 1.0


def test_a_damaged_block_that_is_computed_again_is_read(tmp_path: Path):
    store = Store(str(tmp_path))
    pool, kept = put_pool(store), None
    only = CellBlock((CANDIDATES[0],), ("a0",), np.array([[-1.0]], dtype=np.float32))
    path = write_block(store, cells_folder(KEY, CANDIDATES), only)
    store.write(path, b"damaged")
    kept = table(store, pool)
    kept.refresh()
    assert np.isnan(next(kept.shards()).values).all()
    assert write_block(store, cells_folder(KEY, CANDIDATES), only) == path
    kept.refresh()
    assert next(kept.shards()).values[0, 0] == -1.0


class GhostStore(Store):
    """A store whose listings of cells show one more block, which does not exist."""

    __slots__ = ()

    def list(self, folder: str, *, suffix: str = "") -> list[str]:
        ghosts = [f"cells/{KEY}/00000000-ffffffff/0123.parquet"] if folder.startswith("cells/") else []
        return [*super().list(folder, suffix=suffix), *ghosts]


def test_a_block_that_is_listed_but_cannot_be_opened_is_an_error_with_its_path(tmp_path: Path):
    store = GhostStore(str(tmp_path))
    with pytest.raises(StoreError, match=r"could not read .*/0123\.parquet: two listings"):
        table(store, put_pool(store)).refresh()
