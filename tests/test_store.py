"""A store's promises: objects whole or absent, addresses in every error, the same on a disk and elsewhere."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nuggets.errors import StoreError, UsageError
from nuggets.store.file_systems import locate
from nuggets.store.store import Store, open_store

# Starts a child that may not write files of more than 64 KiB; without the signal this is an error like a full disk.
_SMALL_FILES = """
import resource, signal, sys
from nuggets.errors import StoreError
from nuggets.store.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
store = Store(sys.argv[1])
try:
    store.write("a/object", bytes(200_000))
except StoreError as error:
    print(error.__cause__.errno, error, end="")
"""
# A child without the rights of root, which permissions do not bind.
_NOBODY = """
import os, sys
from nuggets.errors import StoreError
from nuggets.store.store import Store
store = Store(sys.argv[1])
store.exists("object")  # imports the file system while Python's own files can surely be read
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(store.read("object").decode(), store.exists("object"), store.list("open"))
for attempt in (
    store.check_writable,
    lambda: store.write("object", b"new"),
    lambda: store.remove("object"),
    lambda: store.list("closed"),
    lambda: store.list(""),
    lambda: store.exists("closed/object"),
    store.leftovers,
):
    try:
        print(attempt())
    except StoreError as error:
        print(error)
"""
_WRITE_FOR_EVER = """
import sys
from nuggets.store.store import Store
store = Store(sys.argv[1])
while True:
    for letter in (b"A", b"B"):
        store.write("object", letter * 3_000_000)
        print(flush=True)
"""


def run(program: str, store: Path) -> str:
    done = subprocess.run([sys.executable, "-c", program, str(store)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of 64 KiB at `folder`, and whether this machine lets us mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def store(request, tmp_path) -> Store:
    if request.param == "s3":
        request.getfixturevalue("s3_server")
        return open_store(f"s3://pools/{uuid.uuid4()}")
    return open_store(str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4()}/")


def test_what_is_written_is_read_listed_replaced_and_removed(store):
    assert store.list("") == []
    assert not store.exists("a/b")
    store.write("a/b/two", b"2")
    store.write("a/b/one", b"1")
    store.write("a/bc", b"")
    store.write("top", b"\0\xff")
    assert store.list("") == ["a/b/one", "a/b/two", "a/bc", "top"]
    assert store.list("a/b") == ["a/b/one", "a/b/two"]
    assert store.list("nowhere") == []
    assert [store.read(path) for path in store.list("")] == [b"1", b"2", b"", b"\0\xff"]
    assert [store.exists(path) for path in ("a/b/one", "a/b", "a", "a/b/o", "b")] == [True, True, True, False, False]
    store.write("a/b/one", b"another")
    assert store.read("a/b/one") == b"another"
    store.remove("a/b/one")
    store.remove("a/b/one")
    assert store.list("") == ["a/b/two", "a/bc", "top"]


def test_an_object_is_written_if_absent_and_never_replaced(store):
    assert store.write_if_absent("names/a.json", b"first")
    assert not store.write_if_absent("names/a.json", b"second")
    assert store.read("names/a.json") == b"first"
    assert store.list("names") == ["names/a.json"]
    store.write("names/a.json", b"third")
    assert store.read("names/a.json") == b"third"


def test_of_writers_that_race_to_create_an_object_one_wins_and_all_read_its_content(store):
    if store.url.startswith("memory:"):
        pytest.skip("a file system of one process, which locks nothing")
    writers = 8
    for attempt in range(3):
        path = f"names/{attempt}.json"
        barrier = threading.Barrier(writers)

        def create(writer: int, path: str = path, barrier: threading.Barrier = barrier) -> tuple[bool, bytes]:
            barrier.wait()
            return store.write_if_absent(path, bytes([writer]) * 1000), store.read(path)

        with ThreadPoolExecutor(writers) as pool:
            results = list(pool.map(create, range(writers)))
        winners = [writer for writer, (created, _) in enumerate(results) if created]
        assert len(winners) == 1
        assert {content for _, content in results} == {bytes(winners) * 1000}


def test_a_missing_object_is_named_by_its_full_address(store):
    with pytest.raises(FileNotFoundError) as missing:
        store.read("runs/none/manifest.json")
    assert missing.value.filename == f"{store.url}/runs/none/manifest.json"
    assert str(missing.value) == f"[Errno {errno.ENOENT}] nothing is stored at: '{store.url}/runs/none/manifest.json'"


def test_a_listing_is_sorted_and_hides_incomplete_files(store):
    for path in ("b/2", "b/10", "a", "B", "b/.pending-x", ".pending-check-1", "b/pending"):
        store.write(path, b"")
    assert store.list("") == ["B", "a", "b/10", "b/2", "b/pending"]


def test_a_listing_shows_files_that_are_deleted_meanwhile(tmp_path, monkeypatch):
    """So that a reader notices, and looks again for what has taken its place."""
    store = open_store(str(tmp_path))
    store.write("a/one", b"1")
    scan = os.scandir

    @contextlib.contextmanager
    def scan_and_delete(folder):
        with scan(folder) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_file():
                os.unlink(entry.path)
        yield found

    monkeypatch.setattr(os, "scandir", scan_and_delete)
    assert store.list("a") == ["a/one"] and store.list("a") == []


def test_a_store_that_can_be_written_passes_the_check_and_is_left_as_it_was(store):
    store.check_writable()
    assert store.list("") == []
    if "://" not in store.url:
        assert list(Path(store.url).iterdir()) == []


def test_a_relative_folder_means_the_same_folder_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [open_store(url).url for url in ("./x/", f"{tmp_path}/x", ".")] == [f"{tmp_path}/x"] * 2 + [str(tmp_path)]
    assert open_store("s3://bucket/prefix/").url == "s3://bucket/prefix"


def test_an_unknown_scheme_is_a_usage_error():
    with pytest.raises(UsageError) as refused:
        Store("nowhere://x").read("a")
    assert str(refused.value) == (
        "'nowhere://x/a' can't be opened (Protocol not known: nowhere): use a local folder, or install s3fs for s3://"
    )


def test_a_write_that_fails_leaves_the_old_object_and_nothing_else(tmp_path):
    store = Store(str(tmp_path))
    store.write("a/object", b"old")
    with pytest.raises(TypeError):
        store.write("a/object", "text")  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["object"]
    assert store.read("a/object") == b"old"


def test_a_file_larger_than_allowed_leaves_the_old_object(tmp_path):
    store = Store(str(tmp_path))
    store.write("a/object", b"old")
    assert run(_SMALL_FILES, tmp_path) == (
        f"{errno.EFBIG} could not write {tmp_path}/a/object: {os.strerror(errno.EFBIG)}; "
        "fix this and run again: what is stored already is kept"
    )
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["object"]
    assert store.read("a/object") == b"old"


def test_a_full_disk_keeps_stored_objects_and_gives_advice(tmp_path):
    store = Store(str(tmp_path))
    with small_disk(tmp_path) as mounted:
        store.write("a/object", b"old")
        if mounted:
            with pytest.raises(StoreError) as refused:
                store.write("a/object", bytes(200_000))
            assert str(refused.value) == (
                f"could not write {tmp_path}/a/object: the disk or quota is full: free some space or give another "
                f"store; what is stored already is kept ({os.strerror(errno.ENOSPC)})"
            )
        else:
            assert run(_SMALL_FILES, tmp_path).startswith(f"{errno.EFBIG} could not write {tmp_path}/a/object: ")
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["object"]
        assert store.read("a/object") == b"old"
        store.write("a/small", b"fits")
        assert store.list("") == ["a/object", "a/small"]


def test_a_folder_without_permission_is_an_error_and_not_empty():
    folder = Path(tempfile.mkdtemp())  # not tmp_path: its parents are closed to other users
    try:
        (folder / "object").write_bytes(b"old")
        for name, mode in (("open", 0o755), ("closed", 0o700)):
            (folder / name).mkdir()
            (folder / name / "object").write_bytes(b"")
            (folder / name).chmod(mode)
        folder.chmod(0o555)
        said = run(_NOBODY, folder).splitlines()
    finally:
        folder.chmod(0o755)
        kept = (folder / "object").read_bytes()
        shutil.rmtree(folder)
    cause = os.strerror(errno.EACCES)
    write, read = (
        f"no permission: give an address that this user may {verb}, or change its permissions ({cause})"
        for verb in ("write", "read")
    )
    assert said[0] == "old True ['open/object']"
    assert said[1].startswith(f"could not write {folder}/.pending-check-") and said[1].endswith(f": {write}")
    assert said[2:] == [
        f"could not write {folder}/object: {write}",
        f"could not delete {folder}/object: {write}",
        f"could not list {folder}/closed: {read}",
        f"could not list {folder}/: {read}",
        f"could not read {folder}/closed/object: {read}",
        f"could not list {folder}/: {read}",
    ]
    assert kept == b"old"


def test_a_file_is_not_absent_because_the_disk_does_not_answer(tmp_path):
    store, path = Store(str(tmp_path)), "x" * 300  # a name that no disk allows, so that each look at it is an error
    with pytest.raises(StoreError, match=f"^could not read {tmp_path}/x+: "):
        store.exists(path)
    with pytest.raises(StoreError, match=f"^could not list {tmp_path}/x+: "):
        store.list(path)


def test_a_store_below_a_regular_file_is_refused_by_its_address(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    said = f"{tmp_path}/file is a file where a folder is needed: give another store"
    for url in (tmp_path / "file", tmp_path / "file" / "below"):
        store = Store(str(url))
        with pytest.raises(StoreError, match=f"^could not write {url}/x/object: {said} \\(.+\\)$"):
            store.write("x/object", b"")
        with pytest.raises(StoreError, match=f"^could not write {url}/.pending-check-[0-9]+: {said} "):
            store.check_writable()
        assert (store.exists("x"), store.list("x"), store.leftovers()) == (False, [], {})
    assert (tmp_path / "file").read_text() == "not a folder"


def test_an_object_can_not_take_a_folders_place(tmp_path):
    store = Store(str(tmp_path))
    store.write("a/b", b"kept")
    with pytest.raises(StoreError, match=f"^could not write {tmp_path}/a: "):
        store.write("a", b"")
    with pytest.raises(StoreError, match=f"^could not read {tmp_path}/a: "):
        store.read("a")
    assert (store.list(""), [path.name for path in tmp_path.iterdir()]) == (["a/b"], ["a"])


def test_a_parent_that_can_not_be_made_is_a_store_error_too():
    with pytest.raises(StoreError) as refused:
        Store("/proc/nuggets").write("object", b"")
    assert str(refused.value) == (
        "could not write /proc/nuggets/object: its folder is missing and cannot be created: give another store "
        f"({os.strerror(errno.ENOENT)})"
    )


def test_objects_of_a_shared_folder_can_be_read_by_colleagues(tmp_path):
    Store(str(tmp_path)).write("object", b"")
    assert (tmp_path / "object").stat().st_mode & 0o777 == 0o644


def test_an_object_is_opened_to_read_some_of_it(store):
    content = bytes(range(256)) * 1000
    store.write("a/object", content)
    with store.open("a/object") as file:
        assert file.seek(-10, os.SEEK_END) == len(content) - 10
        assert file.read() == content[-10:]
        file.seek(3)
        assert file.read(4) == content[3:7]
    with pytest.raises(FileNotFoundError) as missing:
        store.open("a/none")
    assert missing.value.filename == f"{store.url}/a/none"
    assert str(missing.value) == f"[Errno {errno.ENOENT}] nothing is stored at: '{store.url}/a/none'"


def test_what_is_open_stays_whole_while_it_is_replaced(tmp_path):
    store = Store(str(tmp_path))
    store.write("object", b"old " * 100_000)
    with store.open("object") as file:
        start = file.read(4)
        store.write("object", b"new")
        assert start + file.read() == b"old " * 100_000
    assert store.read("object") == b"new"


def test_a_folder_can_not_be_opened_as_an_object(tmp_path):
    Store(str(tmp_path)).write("a/b", b"")
    with pytest.raises(StoreError, match=f"^could not read {tmp_path}/a: "):
        Store(str(tmp_path)).open("a")


@pytest.mark.parametrize("size", [0, 5, 20_000_000])
def test_a_local_file_is_stored_whole_and_stays(store, tmp_path, size):
    file = tmp_path / "file"
    content = os.urandom(size)
    file.write_bytes(content)
    store.write("a/object", b"old")
    store.write_file("a/object", file)
    store.write_file("new/place/object", file)
    assert store.list("") == ["a/object", "new/place/object"]
    assert [store.read(path) == content for path in store.list("")] == [True, True]
    assert file.read_bytes() == content
    assert store.leftovers() == {}
    filesystem, path = locate(f"{store.url}/a/object")
    if "file" in filesystem.protocol:
        assert os.stat(path).st_mode & 0o777 == 0o644


def test_a_file_that_does_not_fit_leaves_the_old_object_and_nothing_else(tmp_path):
    (tmp_path / "file").write_bytes(bytes(200_000))
    folder = tmp_path / "store"
    folder.mkdir()
    store = Store(str(folder))
    program = _SMALL_FILES.replace(
        'store.write("a/object", bytes(200_000))',
        'store.write_file("a/object", Path(sys.argv[1]).parent / "file")',
    ).replace("import resource", "from pathlib import Path\nimport resource")
    with small_disk(folder) as mounted:
        store.write("a/object", b"old")
        if mounted:
            with pytest.raises(StoreError, match="^could not write .*/a/object: the disk or quota is full: "):
                store.write_file("a/object", tmp_path / "file")
        assert run(program, folder).startswith(f"{errno.ENOSPC if mounted else errno.EFBIG} could not write {folder}/")
        assert [path.name for path in (folder / "a").iterdir()] == ["object"]
        assert store.read("a/object") == b"old"


def test_leftovers_are_incomplete_files_with_their_ages(tmp_path):
    store = Store(str(tmp_path))
    store.write("a/b/object", b"1")
    assert store.leftovers() == {}
    ages = {".pending-top": 7200.0, "a/.pending-x1": 0.0, "a/b/.pending-y2": -600.0}  # a clock that was set back since
    now = time.time()
    for path, age in ages.items():
        (tmp_path / path).write_bytes(b"half an obj")
        os.utime(tmp_path / path, (now, now - age))
    found = store.leftovers()
    assert found == pytest.approx(ages, abs=30)
    assert store.list("") == ["a/b/object"]
    assert Store(str(tmp_path / "none")).leftovers() == {}


def test_objects_have_ages(store, tmp_path):
    assert store.ages("a") == {}
    for path in ("a/old", "a/b/new", "other", "a/.pending-x"):
        store.write(path, b"")
    expected = {"a/b/new": 0.0, "a/old": 0.0}
    if "://" not in store.url:
        expected["a/old"] = 7200.0
        os.utime(Path(store.url, "a/old"), (time.time() - 7200,) * 2)
    found = store.ages("a")
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=30)
    if store.url.startswith("s3://"):
        time.sleep(2.1)  # S3 keeps whole seconds
        store.write("a/old", b"")
        later = store.ages("a")
        assert later["a/b/new"] - later["a/old"] > 1


def test_a_remote_store_has_no_leftovers():
    store = open_store(f"memory://{uuid.uuid4()}")
    store.write("a/.pending-x", b"")
    assert store.leftovers() == {}


def test_leftovers_of_killed_writers_are_found_and_whole_objects_are_not_among_them(tmp_path):
    store = Store(str(tmp_path))
    program = _WRITE_FOR_EVER.replace("letter * 3_000_000", "letter * 30_000_000")
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            child.stdout.readline()
            while not (found := store.leftovers()) and child.poll() is None:
                time.sleep(0.0001)
        finally:
            child.kill()
            child.communicate()
        if found := store.leftovers():
            break
    (path,) = found
    assert path.startswith(".pending-") and (tmp_path / path).exists()
    assert -1 <= found[path] < 60
    store.remove(path)
    assert (store.leftovers(), store.list("")) == ({}, ["object"])


def test_two_writers_of_one_object_never_show_it_torn_and_listings_miss_nothing(store):
    contents = [bytes([letter]) * 500_000 for letter in b"AB"]
    store.write("folder/object", contents[0])
    for number in range(10):
        store.write(f"folder/{number}", b"")
    others = [f"folder/{number}" for number in range(10)]
    done = threading.Event()
    failures: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(25):
                store.write("folder/object", content)
        except BaseException as error:
            failures.append(error)

    def look() -> None:
        try:
            while not done.is_set():
                assert store.read("folder/object") in contents
                assert store.list("folder") == [*others, "folder/object"]
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    reader = threading.Thread(target=look)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert store.read("folder/object") in contents


def test_a_writer_that_is_killed_leaves_whole_objects_only(tmp_path):
    store = Store(str(tmp_path))
    for pause in (0.0, 0.003, 0.007):
        child = subprocess.Popen([sys.executable, "-c", _WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(pause)
        finally:
            child.kill()
            child.communicate()
        assert store.list("") == ["object"]
        assert store.read("object") in (b"A" * 3_000_000, b"B" * 3_000_000)
