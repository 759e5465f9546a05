"""Blocks are written while scoring continues, one at a time, and no computed cell is lost."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import nuggets.steps.block_writer
from nuggets.cells.folders import list_blocks, read_cells
from nuggets.errors import Interrupted, StoreError, StoreUnavailable
from nuggets.steps.block_writer import BlockWriter
from nuggets.store.store import Store

FOLDER = "cells/key/c1-c9"
NAMES = tuple(f"c{number}" for number in range(1, 10))
SECONDS = 20.0  # after which what should happen is taken not to happen


class GatedStore:
    """A real store whose writes wait at a gate and may fail there."""

    def __init__(self, url: str) -> None:
        self.behind = Store(url)
        self.began = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.failures = 0
        self.at_once = 0
        self.most_at_once = 0

    def write(self, path: str, content: bytes) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.began.release()
        try:
            assert self.gate.acquire(timeout=SECONDS), "no one opened the gate"
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable(f"could not write {path}: the server is away")
            self.behind.write(path, content)
        finally:
            self.at_once -= 1


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedStore]:
    """Blocks of two candidates; the gate is open at the end, or a failed test would wait for its writes."""
    monkeypatch.setattr(nuggets.steps.block_writer, "BLOCK_CANDIDATES", 2)
    store = GatedStore(str(tmp_path / "store"))
    yield store
    store.gate.release(1000)


def writer(store: GatedStore) -> BlockWriter:
    return BlockWriter(cast(Store, store), FOLDER, ("a",))


def add(blocks: BlockWriter, number: int) -> None:
    blocks.add(f"c{number}", np.array([-number], dtype=np.float32))
    blocks.write_if_due()


def stored(store: GatedStore) -> list[int]:
    """Numbers of the candidates whose cell is stored."""
    cells = read_cells(store.behind, FOLDER, NAMES, ("a",))[:, 0]
    return [-int(value) for value in cells if not np.isnan(value)]


def test_scoring_continues_while_a_block_is_written(store: GatedStore) -> None:
    with writer(store) as blocks:
        add(blocks, 1)
        add(blocks, 2)
        assert store.began.acquire(timeout=SECONDS)
        add(blocks, 3)  # would wait for the gate, which opens below, if it waited for the write
        assert stored(store) == []
        store.gate.release(10)
    assert stored(store) == [1, 2, 3]


def test_one_block_at_a_time_is_being_written(store: GatedStore) -> None:
    with writer(store) as blocks:
        for number in range(1, 4):
            add(blocks, number)
        assert store.began.acquire(timeout=SECONDS)
        waiting = threading.Thread(target=add, args=(blocks, 4))
        waiting.start()
        assert not store.began.acquire(timeout=0.2)  # the second block waits for the first
        store.gate.release(10)
        waiting.join()
        for number in range(5, 10):
            add(blocks, number)
    assert store.most_at_once == 1
    assert stored(store) == list(range(1, 10))
    assert len(list_blocks(store.behind, FOLDER)) == 5


@pytest.mark.parametrize("error", [Interrupted("stopped"), MemoryError("CUDA out of memory"), KeyboardInterrupt()])
def test_what_ends_scoring_waits_until_all_rows_are_stored(store: GatedStore, error: BaseException) -> None:
    with pytest.raises(type(error)), writer(store) as blocks:
        for number in (1, 2, 3):
            add(blocks, number)
        threading.Timer(0.1, store.gate.release, [10]).start()
        raise error
    assert stored(store) == [1, 2, 3]


def test_an_error_of_the_writer_ends_scoring_and_its_rows_are_written_again(store: GatedStore) -> None:
    store.failures = 1
    store.gate.release(10)
    scored: list[int] = []
    with pytest.raises(StoreError, match="the server is away"), writer(store) as blocks:
        for number in range(1, 10):
            scored.append(number)
            add(blocks, number)
    assert stored(store) == scored
    assert len(scored) <= 4  # at the latest, when the next block is due


def test_a_store_that_stays_away_is_an_error_also_for_the_last_rows(store: GatedStore) -> None:
    store.failures = 10
    store.gate.release(10)
    with pytest.raises(StoreError, match="the server is away"), writer(store) as blocks:
        add(blocks, 1)


def test_no_thread_is_left_behind(store: GatedStore) -> None:
    store.gate.release(10)
    with writer(store) as blocks:
        for number in (1, 2):
            add(blocks, number)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("block writer")]
