"""Rows in buckets, within memory and beyond it."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.errors import StoreError
from nuggets.store.disk_buckets import DiskBuckets, disk_buckets
from nuggets.store.temporary import temporary_folder

ROW_BYTES = 8


def rows(*numbers: int) -> pa.Table:
    return pa.table({"number": pa.array(numbers, pa.int64())})


def taken(buckets: DiskBuckets, bucket: int) -> list[int] | None:
    table = buckets.take(bucket)
    return None if table is None else table["number"].to_pylist()


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_fits_into_memory_never_meets_the_disk(temporary):
    with disk_buckets(buckets=3, memory=6 * ROW_BYTES) as buckets:
        buckets.add(2, rows(1, 2))
        buckets.add(0, rows(3))
        buckets.add(2, rows(4, 5, 6))
        assert files(temporary) == []
        assert [taken(buckets, bucket) for bucket in range(buckets.buckets)] == [[3], None, [1, 2, 4, 5, 6]]
        buckets.add(1, rows(*range(6)))  # what was taken takes no memory any more
        assert files(temporary) == []
        assert taken(buckets, 1) == [0, 1, 2, 3, 4, 5]


def test_beyond_memory_rows_come_back_by_bucket_in_the_order_in_which_they_came(temporary):
    with disk_buckets(buckets=3, memory=3 * ROW_BYTES) as buckets:
        for number in range(20):
            buckets.add(number % 2, rows(number, 100 + number))
            assert buckets._bytes <= 3 * ROW_BYTES
        assert files(temporary) == ["00000.arrows", "00001.arrows"]
        evens, odds = ([each for number in range(start, 20, 2) for each in (number, 100 + number)] for start in (0, 1))
        assert taken(buckets, 0) == evens
        assert files(temporary) == ["00001.arrows"]
        assert [taken(buckets, bucket) for bucket in (0, 1, 1, 2)] == [None, odds, None, None]
        assert files(temporary) == []


def test_a_bucket_that_was_taken_up_can_be_filled_again(temporary):
    with disk_buckets(buckets=1, memory=0) as buckets:
        buckets.add(0, rows(1))
        assert taken(buckets, 0) == [1]
        buckets.add(0, rows(2))
        buckets.add(0, rows(3))
        assert taken(buckets, 0) == [2, 3]


@pytest.mark.parametrize("failing", [False, True])
def test_files_are_gone_afterwards_also_after_an_error(temporary, failing):
    def use() -> None:
        with disk_buckets(buckets=2, memory=0) as buckets:
            buckets.add(0, rows(1))
            buckets.add(1, rows(2))
            assert files(temporary) == ["00000.arrows", "00001.arrows"]
            if failing:
                raise KeyError("broken")

    if failing:
        with pytest.raises(KeyError, match="broken"):
            use()
    else:
        use()
    assert list(temporary.iterdir()) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(), max_size=4)), max_size=12), st.integers(0, 60))
def test_memory_changes_nothing_about_what_comes_back(parts, memory):
    parts = [(bucket, [number % 1000 for number in numbers]) for bucket, numbers in parts]
    with disk_buckets(buckets=4, memory=memory) as buckets:
        for bucket, numbers in parts:
            buckets.add(bucket, rows(*numbers))
        for bucket in range(4):
            came = [numbers for into, numbers in parts if into == bucket]
            assert taken(buckets, bucket) == ([each for numbers in came for each in numbers] if came else None)


def test_a_full_disk_is_an_error_that_names_the_folder_and_tmpdir(temporary):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(temporary)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets us mount no small disk")
    try:
        with pytest.raises(StoreError) as refused, disk_buckets(buckets=2, memory=0) as buckets:
            buckets.add(0, rows(*range(100)))
            buckets.add(1, rows(*range(20_000)))
        assert list(temporary.iterdir()) == []
    finally:
        subprocess.run(["umount", str(temporary)], check=True)
    assert str(refused.value) == said(temporary, errno.ENOSPC)


def test_a_device_that_takes_nothing_more_is_the_same_error(temporary):
    with pytest.raises(StoreError) as refused, temporary_folder() as folder:
        (folder / "00000.arrows").symlink_to("/dev/full")
        DiskBuckets(folder, buckets=1, memory=0).add(0, rows(1))
    assert str(refused.value) == said(folder.parent, errno.ENOSPC)


def test_a_file_that_may_not_grow_any_more_is_an_error_too(temporary):
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        with pytest.raises(StoreError) as refused, disk_buckets(buckets=1, memory=0) as buckets:
            buckets.add(0, rows(*range(20_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert str(refused.value) == said(temporary, errno.EFBIG)


def said(folder: Path, number: int) -> str:
    return (
        f"no space left for temporary files in {folder}: free some, or set TMPDIR to a folder with room "
        f"({os.strerror(number)})"
    )
