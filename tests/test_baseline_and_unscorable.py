"""Baselines and unscorable candidates under a scoring key."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from nuggets.anchors.baseline import Baseline, read_baseline, write_baseline
from nuggets.cells.unscorable import read_unscorable, record_unscorable
from nuggets.store.parquet import read_table
from nuggets.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_foreign_files_beside_baselines_and_notes_are_not_read(store: Store) -> None:
    write_baseline(store, "key", ["a"], Baseline(np.array([-1.5], np.float32), np.array([3], np.int32)))
    record_unscorable(store, "key", {"c": ["a"]})
    for folder in ("baselines/key", "unscorable/key"):
        for name in (".DS_Store", "._x.parquet", "._x.json", "notes.txt"):
            store.write(f"{folder}/{name}", b"Mac OS X")
    found = read_baseline(store, "key", ["a"])
    assert (found.zero_shot.tolist(), found.response_tokens.tolist()) == ([-1.5], [3])
    assert read_unscorable(store, "key", ["a"]) == {"c"}


def test_a_candidate_is_unscorable_for_the_anchors_that_gave_no_finite_number(store: Store) -> None:
    record_unscorable(store, "key", {"c1": ["a1", "a2"], "c2": ["a2"]})
    record_unscorable(store, "key", {"c1": ["a3"]})
    asked = (["a1"], ["a2", "a9"], ["a3"], ["a9"], [])
    assert [sorted(read_unscorable(store, "key", anchors)) for anchors in asked] == [
        ["c1"],
        ["c1", "c2"],
        ["c1"],
        [],
        [],
    ]
    assert read_unscorable(store, "another", ["a1"]) == frozenset()


def test_of_two_baseline_values_the_one_with_the_smaller_digest_is_used(store) -> None:
    values = np.array([-1.5, -1.25, -1.0, -0.75], np.float32)
    used = min(values, key=lambda value: hashlib.sha256(b" a " + value.tobytes()).digest())
    for number, value in enumerate(values):
        write_baseline(store, "key", ["a", f"b{number}"], Baseline(np.array([value, 0], np.float32), np.array([3, 1])))
    assert read_baseline(store, "key", ["a"]).zero_shot.tolist() == [used]
    last = read_table(store, store.list("baselines/key")[-1]).to_pydict()
    assert last["zero_shot"][0] != used  # so that another rule would fail
