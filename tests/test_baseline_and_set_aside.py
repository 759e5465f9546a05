"""What a scoring key keeps beside its cells: baselines, and candidates that were set aside."""

from pathlib import Path

import numpy as np
import pytest

from nuggets.baseline import Baseline, read_baseline, write_baseline
from nuggets.set_aside import note_set_aside, read_set_aside
from nuggets.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_foreign_files_beside_baselines_and_notes_are_not_read(store: Store) -> None:
    write_baseline(store, "key", ["a"], Baseline(np.array([-1.5], np.float32), np.array([3], np.int32)))
    note_set_aside(store, "key", ["c"])
    for folder in ("baselines/key", "set-aside/key"):
        for name in (".DS_Store", "._x.parquet", "._x.json", "notes.txt"):
            store.write(f"{folder}/{name}", b"Mac OS X")
    found = read_baseline(store, "key", ["a"])
    assert (found.zero_shot.tolist(), found.response_tokens.tolist()) == ([-1.5], [3])
    assert read_set_aside(store, "key") == {"c"}
