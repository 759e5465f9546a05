"""What may be deleted from a store, and what a reader may still need."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from nuggets.racing.work_list import ShardWork, read_worklist, write_worklist
from nuggets.runs.manifest import RunState, open_run, record_state
from nuggets.steps.gc import find_garbage, sweep_garbage
from nuggets.store.store import Store

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs, one of which has ended."""
    store = Store(str(tmp_path))
    for name in ("ended", "going"):
        open_run(store, name, config={}, identity={}, inputs={})
    record_state(store, "ended", RunState.COMPLETE)
    return store


def worklist(store: Store, run: str, number: int, *, age: float) -> str:
    path = write_worklist(
        store, f"runs/{run}/worklists", {"shard": ShardWork(np.array([number]), np.ones((1, 2), dtype=bool))}
    )
    then = time.time() - age
    os.utime(Path(store.url, path), (then, then))
    return path


def test_young_work_lists_of_an_ended_run_outlive_a_sweep(store: Store) -> None:
    young = worklist(store, "ended", 1, age=6 * DAY)
    old = worklist(store, "ended", 2, age=8 * DAY)
    going = worklist(store, "going", 3, age=8 * DAY)
    found = find_garbage(store, older_than=0.0)
    assert found.worklists == (old,)
    assert find_garbage(store, older_than=9 * DAY).worklists == ()
    sweep_garbage(store, found, damaged=False)
    assert [read_worklist(store, path)["shard"].positions.tolist() for path in (young, going)] == [[1], [3]]
    assert not store.exists(old)


def test_files_of_killed_writers_are_swept_as_soon_as_asked(store: Store) -> None:
    (Path(store.url) / ".pending-x").write_bytes(b"half")
    assert find_garbage(store, older_than=HOUR).leftovers == ()
    assert find_garbage(store, older_than=-1.0).leftovers == (".pending-x",)
