"""What a scoring key keeps beside its cells: baselines, and candidates that were set aside."""

from pathlib import Path

import numpy as np
import pytest

from nuggets.anchors.baseline import Baseline, read_baseline, write_baseline
from nuggets.cells.unscorable import read_unscorable, record_unscorable
from nuggets.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_foreign_files_beside_baselines_and_notes_are_not_read(store: Store) -> None:
    write_baseline(store, "key", ["a"], Baseline(np.array([-1.5], np.float32), np.array([3], np.int32)))
    record_unscorable(store, "key", {"c": ["a"]})
    for folder in ("baselines/key", "set-aside/key"):
        for name in (".DS_Store", "._x.parquet", "._x.json", "notes.txt"):
            store.write(f"{folder}/{name}", b"Mac OS X")
    found = read_baseline(store, "key", ["a"])
    assert (found.zero_shot.tolist(), found.response_tokens.tolist()) == ([-1.5], [3])
    assert read_unscorable(store, "key", ["a"]) == {"c"}


def test_a_candidate_is_set_aside_where_an_anchor_is_asked_for_that_gave_no_number(store: Store) -> None:
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


def test_a_note_of_an_earlier_version_holds_for_all_anchors(store: Store) -> None:
    store.write("set-aside/key/earlier.json", b'["c1", "c2"]')
    record_unscorable(store, "key", {"c3": ["a1"]})
    assert read_unscorable(store, "key", ["a9"]) == {"c1", "c2"}
    assert read_unscorable(store, "key", ["a1"]) == {"c1", "c2", "c3"}
