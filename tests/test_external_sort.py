"""Sorting rows within memory and beyond it."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.errors import StoreError
from nuggets.store.external_sort import ExternalSort, external_sort
from nuggets.store.temporary import temporary_folder

SPLITS = [b"b", b"d"]
ROW_BYTES = 1 + 4 + 8  # a key of one letter, its offset, a number; and an offset more per table
Row = tuple[str, int]


def rows(*pairs: Row) -> pa.Table:
    keys, numbers = zip(*pairs, strict=True)
    return pa.table({"key": pa.array(keys, pa.string()), "number": pa.array(numbers, pa.int64())})


def pairs(tables: Iterable[pa.Table]) -> list[Row]:
    return [(row["key"], row["number"]) for table in tables for row in table.to_pylist()]


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_rows_that_fit_into_memory_are_sorted_without_files(temporary):
    with external_sort("key", splits=SPLITS, memory=10 * ROW_BYTES) as by_key:
        by_key.add(rows(("d", 1), ("a", 2), ("b", 3)))
        by_key.add(rows(("c", 4), ("b", 5)))
        assert files(temporary) == []
        tables = list(by_key.sorted())
        assert files(temporary) == []
    assert [table.num_rows for table in tables] == [1, 3, 1]
    assert pairs(tables) == [("a", 2), ("b", 3), ("b", 5), ("c", 4), ("d", 1)]


def test_rows_beyond_memory_go_through_one_file_per_bucket_which_is_removed_once_read(temporary):
    with external_sort("key", splits=SPLITS, memory=3 * ROW_BYTES) as by_key:
        for number in range(20):
            by_key.add(rows(("e", number), ("a", 100 + number)))
        assert files(temporary) == ["00000.arrows", "00002.arrows"]
        tables = by_key.sorted()
        assert pairs([next(tables)]) == [("a", 100 + number) for number in range(20)]
        assert files(temporary) == ["00002.arrows"]
        assert pairs(tables) == [("e", number) for number in range(20)]
        assert files(temporary) == []


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 9)), min_size=1, max_size=4), max_size=12),
    st.sampled_from([0, 2 * ROW_BYTES, 9 * ROW_BYTES, 1 << 20]),
    st.sampled_from([[], SPLITS, [b"a", b"a", b"c"]]),
)
def test_the_order_is_stable_whatever_the_memory_and_the_splits(parts, memory, splits):
    added = [row for part in parts for row in part]
    for distinct in (False, True):
        with external_sort("key", splits=splits, memory=memory) as by_key:
            for part in parts:
                by_key.add(rows(*part))
            found = pairs(by_key.sorted(distinct=distinct))
        expected = sorted(added, key=lambda row: row[0])
        if distinct:
            expected = [row for place, row in enumerate(expected) if row[0] not in dict(expected[:place])]
        assert found == expected


def test_keys_of_bytes_are_sorted_as_bytes():
    keys = [b"\xff\x01", b"\x80", b"a\x01b", b"\x01"]
    with external_sort("key", splits=[b"\x7f"], memory=0) as by_key:
        by_key.add(pa.table({"key": pa.array(keys, pa.binary())}))
        found = [key for table in by_key.sorted() for key in table["key"].to_pylist()]
    assert found == sorted(keys)


@pytest.mark.parametrize("failing", [False, True])
def test_no_file_is_left_also_after_an_error(temporary, failing):
    def use() -> None:
        with external_sort("key", splits=SPLITS, memory=0) as by_key:
            by_key.add(rows(("a", 1), ("b", 2)))
            assert files(temporary) == ["00000.arrows", "00001.arrows"]
            if failing:
                raise KeyError("broken")

    if failing:
        with pytest.raises(KeyError, match="broken"):
            use()
    else:
        use()
    assert list(temporary.iterdir()) == []


PEAK = """
import resource, sys
import numpy as np, pyarrow as pa
from nuggets.store.external_sort import external_sort

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

rng, before, last, rows = np.random.default_rng(0), peak(), "", 0
splits = [b"%x" % digit for digit in range(1, 16)]
with external_sort("key", splits=splits, memory=16 << 20) as by_key:
    for _ in range(100):
        keys = [f"{number:08x}" for number in rng.integers(0, 1 << 32, 500)]
        by_key.add(pa.table({"key": keys, "text": ["x" * 5000] * 500}))
    for table in by_key.sorted():
        keys = table["key"].to_pylist()
        assert keys == sorted(keys) and last <= keys[0]
        last, rows = keys[-1], rows + len(keys)
print(rows, peak() - before)
"""


def test_sorting_a_quarter_of_a_gigabyte_takes_a_fraction_of_it():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    found, mib = map(int, done.stdout.split())
    assert found == 50_000
    assert mib < 140  # 250 MB of rows; 16 MiB of them in memory, then 15 MB twice, and the memory pool's reserve


def test_a_full_disk_is_an_error_that_names_the_folder_and_tmpdir(temporary):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(temporary)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        with pytest.raises(StoreError) as refused, external_sort("key", splits=SPLITS, memory=0) as by_key:
            by_key.add(rows(*(("a", number) for number in range(100))))
            by_key.add(rows(*(("c", number) for number in range(20_000))))
        assert list(temporary.iterdir()) == []
    finally:
        subprocess.run(["umount", str(temporary)], check=True)
    assert str(refused.value) == message(temporary, errno.ENOSPC)


def test_a_device_without_space_is_the_same_error(temporary):
    with pytest.raises(StoreError) as refused, temporary_folder() as folder:
        (folder / "00000.arrows").symlink_to("/dev/full")
        ExternalSort(folder, "key", splits=[], memory=0).add(rows(("a", 1)))
    assert str(refused.value) == message(folder.parent, errno.ENOSPC)


def test_a_file_at_the_size_limit_is_the_same_error(temporary):
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        with pytest.raises(StoreError) as refused, external_sort("key", splits=[], memory=0) as by_key:
            by_key.add(rows(*(("a", number) for number in range(20_000))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert str(refused.value) == message(temporary, errno.EFBIG)


def message(folder: Path, number: int) -> str:
    return (
        f"no space left for temporary files in {folder}: free some, or set TMPDIR to a folder on another disk "
        f"({os.strerror(number)})"
    )
