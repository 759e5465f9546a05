"""Blocks of cells, written, joined, damaged and read back from a real folder."""

import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from nuggets.cells.blocks import CellBlock, read_block, write_block
from nuggets.cells.conflicts import join_cells
from nuggets.cells.folders import cells_folder, compact, folder_range, list_blocks, read_cells, read_folder
from nuggets.errors import StoreError
from nuggets.store.file_systems import locate
from nuggets.store.store import Store

FOLDER = "cells/key/0-f"
NAN = float("nan")
# A child without the rights of root, which permissions do not bind; every message that it logs is printed.
_NOBODY = """
import logging, os, sys
import pyarrow.parquet
from nuggets.cells.folders import read_cells
from nuggets.store.file_systems import locate
from nuggets.store.store import Store
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
store = Store(sys.argv[1])
store.exists("object")  # imports the file system while Python's own files can surely be read
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(read_cells(store, "cells/key/0-f", ["x", "y"], ["A"]).tolist())
"""
# A child that may not read one file: no damage, and nothing that may be passed over.
_NOT_READABLE = """
import os, sys
import pyarrow.parquet
from nuggets.cells.blocks import read_block
from nuggets.errors import StoreError
from nuggets.store.file_systems import locate
from nuggets.store.store import Store
store = Store(sys.argv[1])
store.exists("object")
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    print(read_block(store, sys.argv[2]))
except StoreError as error:
    print(error)
"""
# Reads a block with little memory allowed, then with plenty. Not with next to nothing: that is too little for Arrow to
# say so, and it aborts.
_LITTLE_MEMORY = """
import resource, sys
import pyarrow.parquet
from nuggets.cells.folders import list_blocks
from nuggets.cells.blocks import read_block
from nuggets.errors import StoreError
from nuggets.store.file_systems import locate
from nuggets.store.store import Store
store = Store(sys.argv[1])
(path,) = list_blocks(store, "cells")
with open("/proc/self/status") as lines:
    used = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmSize"))
for mebibytes in (12, 16, 24, 4096):
    resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20), resource.RLIM_INFINITY))
    try:
        print("read" if read_block(store, path) else "given up")
    except StoreError as error:
        print(error.retry_can_help, error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
# Writes one row of a table at a time and joins the folder after each.
_WRITE_AND_COMPACT = """
import sys
import numpy as np
from nuggets.cells.blocks import CellBlock, write_block
from nuggets.cells.folders import compact
from nuggets.store.file_systems import locate
from nuggets.store.store import Store
store, start = Store(sys.argv[1]), int(sys.argv[2])
for row in range(start, start + 12):
    values = np.array([[-row, np.nan] if row % 2 else [np.nan, -row]], dtype=np.float32)
    write_block(store, "cells/key/0-f", CellBlock((f"c{row}",), ("A", "B"), values))
    compact(store, "cells/key/0-f")
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def block(candidates: str, anchors: str, values: list[list[float]]) -> CellBlock:
    """A block whose ids are single letters."""
    return CellBlock(tuple(candidates), tuple(anchors), np.array(values, dtype=np.float32))


def put(store: Store, candidates: str, anchors: str, values: list[list[float]]) -> str:
    return write_block(store, FOLDER, block(candidates, anchors, values))


def cells(store: Store, candidates: str, anchors: str, *, folder: str = FOLDER) -> list[list[float | None]]:
    """Cells with None in place of NaN, so that tables can be compared whole."""
    found = read_cells(store, folder, list(candidates), list(anchors))
    assert found.dtype == np.float32
    assert found.shape == (len(candidates), len(anchors))
    return [[None if np.isnan(value) else float(value) for value in row] for row in found]


def objects(store: Store) -> dict[str, bytes]:
    return {path: store.read(path) for path in store.list("")}


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_block_comes_back_as_it_was_written_in_any_order_and_in_part(store):
    put(store, "xyz", "AB", [[1.5, -2.0], [3.0, 4.25], [-5.0, 0.0]])
    assert cells(store, "xyz", "AB") == [[1.5, -2.0], [3.0, 4.25], [-5.0, 0.0]]
    assert cells(store, "zx", "BA") == [[0.0, -5.0], [-2.0, 1.5]]
    assert cells(store, "y", "B") == [[4.25]]
    assert cells(store, "yxy", "BAB") == [[4.25, 3.0, 4.25], [-2.0, 1.5, -2.0], [4.25, 3.0, 4.25]]


def test_what_is_not_stored_is_nan(store):
    assert cells(store, "xy", "A") == [[None], [None]]
    put(store, "xy", "AB", [[1.0, NAN], [2.0, 3.0]])
    assert cells(store, "qyx", "CBA") == [[None, None, None], [None, 3.0, 2.0], [None, None, 1.0]]
    assert cells(store, "", "A") == []


def test_blocks_with_different_anchors_and_candidates_merge(store):
    put(store, "xy", "AB", [[1.0, 2.0], [3.0, NAN]])
    put(store, "yz", "BC", [[4.0, 5.0], [6.0, 7.0]])
    expected = [[1.0, 2.0, None], [3.0, 4.0, 5.0], [None, 6.0, 7.0]]
    assert cells(store, "xyz", "ABC") == expected
    compact(store, FOLDER)
    assert cells(store, "xyz", "ABC") == expected


def kept(candidate: str, anchor: str, *values: float) -> float:
    """Which of several values for a cell is used, computed here once more."""
    contents = {value: f"{candidate} {anchor} ".encode() + np.float32(value).tobytes() for value in values}
    return min(values, key=lambda value: hashlib.sha256(contents[value]).digest())


@pytest.mark.parametrize("folders", [("1", "2"), ("2", "1")])
def test_nan_hides_no_number_and_of_two_the_smaller_digest_is_used(store, folders):
    first, second = (f"cells/key/{name}" for name in folders)
    write_block(store, first, block("x", "ABCV", [[1.0, NAN, -3.5, -7.0]]))
    write_block(store, second, block("x", "ABCV", [[NAN, 2.0, -3.25, -7.5]]))
    used = [kept("x", "C", -3.5, -3.25), kept("x", "V", -7.0, -7.5)]
    assert used == [-3.25, -7.5]  # once the larger one, once the smaller one
    assert cells(store, "x", "ABCV", folder="cells/key") == [[1.0, 2.0, *used]]


def test_conflicts_are_decided_for_the_larger_value_half_of_the_time():
    ids = [f"c{row}" for row in range(100)]
    known, new = (np.full((100, 100), value, dtype=np.float32) for value in (-2.0, -1.0))
    joined, conflicts = join_cells(known, new, candidate_ids=ids, anchor_ids=ids)
    assert len(conflicts) == 10_000
    assert 4800 < (joined == -1.0).sum() < 5200  # by chance outside once in 16,000 rules; this rule is fixed


@given(data=st.data(), blocks=st.integers(2, 5))
def test_blocks_read_back_as_the_same_table_in_any_order_and_however_joined(tmp_path_factory, data, blocks):
    values = st.sampled_from([NAN, -1.0, -2.0, -2.5, 0.0])
    tables = [data.draw(st.lists(st.lists(values, min_size=2, max_size=2), min_size=2, max_size=2))] * (blocks == 2)
    tables += [
        data.draw(st.lists(st.lists(values, min_size=2, max_size=2), min_size=2, max_size=2))
        for _ in range(blocks - len(tables))
    ]
    expected = [
        [
            kept(candidate, anchor, *known) if (known := [t[i][j] for t in tables if t[i][j] == t[i][j]]) else None
            for j, anchor in enumerate("AB")
        ]
        for i, candidate in enumerate("xy")
    ]
    for order in (tables, tables[::-1]):
        store = Store(str(tmp_path_factory.mktemp("store")))
        for table in order:
            put(store, "xy", "AB", table)
            assert len(list_blocks(store, FOLDER)) <= blocks
            if data.draw(st.booleans()):
                compact(store, FOLDER)
        assert cells(store, "xy", "AB") == expected
        compact(store, FOLDER)
        before = objects(store)
        assert cells(store, "xy", "AB") == expected
        compact(store, FOLDER)
        assert objects(store) == before


class GhostFiles(MemoryFileSystem):
    """A server whose listings show an object that cannot be opened; after `listings` of them it is gone."""

    protocol = "ghost"
    ghosts: ClassVar[dict[str, int]] = {}

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **options: Any) -> Any:
        files = super().find(path, maxdepth=maxdepth, withdirs=withdirs, **options)
        for ghost, listings in self.ghosts.items():
            if listings and ghost.startswith(path):
                self.ghosts[ghost] = listings - 1
                files[ghost] = {"name": ghost, "type": "file", "size": 1}
        return files


@pytest.fixture
def ghosts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Paths that listings of `ghost://` show and that cannot be opened, and how often."""
    fsspec.register_implementation("ghost", GhostFiles, clobber=True)
    monkeypatch.setattr(GhostFiles, "ghosts", {})
    return GhostFiles.ghosts


def test_a_listed_block_that_cannot_be_opened_is_an_error_after_two_listings(ghosts):
    store = Store(f"ghost://{uuid.uuid4()}")
    path = put(store, "x", "A", [[1.0]])
    ghost = f"{FOLDER}/{'0' * 32}.parquet"
    address = f"{locate(store.url)[1]}/{ghost}"
    ghosts[address] = 1
    assert cells(store, "x", "A") == [[1.0]]  # gone at the second listing
    ghosts[address] = 1000
    with pytest.raises(StoreError) as refused:
        cells(store, "x", "A")
    assert refused.value.retry_can_help
    assert str(refused.value).startswith(f"could not read {store.uri(ghost)}: two listings of its folder show it, and ")
    assert ghosts[address] == 998
    assert list_blocks(store, "cells") == [ghost, path]


@pytest.mark.parametrize("link", [f"{FOLDER}/{'0' * 32}.parquet", "cells/key/1-2", "cells/key"])
def test_a_link_without_a_target_is_an_error_and_not_an_absent_block_or_folder(store, link):
    if link != "cells/key":
        put(store, "x", "A", [[1.0]])
    path = Path(store.url, link)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(Path(store.url).with_name("disk that is not mounted"))
    for folder in ("cells/key", "cells"):
        with pytest.raises(StoreError) as refused:
            cells(store, "x", "A", folder=folder)
        assert str(refused.value) == (
            f"could not list {store.url}/{folder}: make the target of {path} available, or delete the link "
            "(symbolic link without a target)"
        )
    path.unlink()
    path.with_name(".#lock").symlink_to("user@host.1234")  # as editors make them
    assert cells(store, "x", "A", folder="cells") == [[1.0]] if link != "cells/key" else [[None]]


def test_a_folder_sees_its_own_blocks_only_and_no_scoring_key_sees_anothers(store):
    write_block(store, "cells/key/0-7", block("x", "A", [[1.0]]))
    write_block(store, "cells/key/8-f", block("y", "A", [[2.0]]))
    write_block(store, "cells/other/0-f", block("z", "A", [[3.0]]))
    assert cells(store, "xyz", "A", folder="cells/key/0-7") == [[1.0], [None], [None]]
    assert cells(store, "xyz", "A", folder="cells/key") == [[1.0], [2.0], [None]]


def test_a_folder_is_named_by_the_range_of_its_candidate_ids():
    ids = ["5c" * 16, "12345678" + "0" * 24, "e0" * 16]
    assert cells_folder("key", ids) == "cells/key/12345678-e0e0e0e0"
    assert folder_range("cells/key/12345678-e0e0e0e0/digest.parquet") == ("12345678", "e0e0e0e0")
    with pytest.raises(
        StoreError, match="^cells/key/backup/x.parquet is not a block of cells: its folder is not named "
    ):
        folder_range("cells/key/backup/x.parquet")


def test_the_same_content_has_the_same_name_whatever_the_order_of_rows_and_columns(store):
    path = put(store, "xyz", "AB", [[1.0, 2.0], [3.0, NAN], [5.0, 0.0]])
    content = store.read(path)
    assert put(store, "zxy", "BA", [[-0.0, 5.0], [2.0, 1.0], [-NAN, 3.0]]) == path
    assert objects(store) == {path: content}
    others = [
        put(store, "xyz", "AB", [[1.0, 2.0], [3.0, NAN], [5.0, 0.5]]),
        put(store, "xyz", "AC", [[1.0, 2.0], [3.0, NAN], [5.0, 0.0]]),
        put(store, "xyw", "AB", [[1.0, 2.0], [3.0, NAN], [5.0, 0.0]]),
        put(store, "xyz", "AB", [[1.0, 2.0], [3.0, 0.0], [5.0, NAN]]),
        put(store, "xy", "AB", [[1.0, 2.0], [3.0, NAN]]),
    ]
    assert len({path, *others}) == 6


def test_the_same_block_written_twice_is_one_object(store):
    first = put(store, "xy", "A", [[1.0], [2.0]])
    content = store.read(first)
    assert put(store, "xy", "A", [[1.0], [2.0]]) == first
    assert objects(store) == {first: content}


def test_a_block_without_rows_or_columns_comes_back_too(store):
    for empty in (block("", "AB", np.empty((0, 2))), block("xy", "", np.empty((2, 0)))):  # type: ignore[arg-type]
        found = read_block(store, write_block(store, FOLDER, empty))
        assert found is not None
        assert (found.candidate_ids, found.anchor_ids) == (empty.candidate_ids, empty.anchor_ids)
        assert found.values.shape == empty.values.shape


def test_an_anchor_that_occurs_twice_in_a_block_is_one_column(store):
    path = put(store, "x", "AA", [[1.0, 1.0]])
    assert pq.read_table(f"{store.url}/{path}").column_names == ["candidate_id", "A"]
    assert cells(store, "x", "AA") == [[1.0, 1.0]]


def test_a_block_has_its_digest_in_its_name_and_file(store):
    path = put(store, "yx", "BA", [[4.0, 3.0], [2.0, 1.0]])
    assert path == f"{FOLDER}/{block('xy', 'AB', [[1.0, 2.0], [3.0, 4.0]]).digest}.parquet"
    stored = pq.read_table(f"{store.url}/{path}")
    metadata = stored.schema.metadata
    assert (metadata[b"format_version"], metadata[b"digest"].decode()) == (b"2", Path(path).stem)
    assert set(json.loads(metadata[b"column_digests"])) == {"candidate_id", "A", "B"}
    assert stored.schema.types == [pa.string(), pa.float32(), pa.float32()]
    assert stored.to_pydict() == {"candidate_id": ["x", "y"], "A": [1.0, 3.0], "B": [2.0, 4.0]}


def test_foreign_files_and_leftovers_of_killed_writers_are_not_read_and_left_alone(store):
    path = put(store, "x", "A", [[1.0]])
    folder = Path(store.url, path).parent
    foreign = {
        folder / ".DS_Store": b"\0",
        folder / f"._{Path(path).name}": b"Mac OS X",
        folder / "notes.txt": b"do not delete",
        folder / ".pending-x1.parquet": b"half a blo",
        folder.parent / ".pending-9f": b"",
    }
    for file, content in foreign.items():
        file.write_bytes(content)
    put(store, "y", "A", [[2.0]])
    assert cells(store, "xy", "A") == [[1.0], [2.0]]
    compact(store, FOLDER)
    assert cells(store, "xy", "A", folder="cells") == [[1.0], [2.0]]
    assert {file: file.read_bytes() for file in foreign} == foreign
    assert len(list_blocks(store, "cells")) == 1
    assert store.list("damaged") == []


@pytest.mark.parametrize(
    ("metadata", "version"), [({"format_version": "1"}, "1"), ({"format_version": "3"}, "3"), ({}, "none")]
)
def test_a_block_of_another_format_is_refused_by_its_name_and_stays_where_it_is(store, metadata, version):
    put(store, "y", "A", [[2.0]])
    table = pa.table({"candidate_id": ["x"], "A": pa.array([1.0], pa.float32())}).replace_schema_metadata(metadata)
    pq.write_table(table, Path(store.url, FOLDER, "later.parquet"))
    before = objects(store)
    for attempt in (lambda: cells(store, "x", "A"), lambda: compact(store, FOLDER)):
        with pytest.raises(StoreError) as refused:
            attempt()
        assert str(refused.value) == (
            f"{store.url}/{FOLDER}/later.parquet has format version {version}, this version of nuggets "
            "reads 2: use the version that wrote it, or another store"
        )
    assert objects(store) == before


def flipped(data: bytes) -> bytes:
    """With a bit turned round in the last page of numbers."""
    last = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(2)
    at = last.data_page_offset + last.total_compressed_size - 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flipped,
    "without its end": lambda data: data[:-20],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "other content": lambda data: b"PAR1 not really PAR1",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_block_is_named_and_quarantined_and_all_other_cells_are_read(store, caplog, damage):
    kept = put(store, "xz", "A", [[1.0], [3.0]])
    path = put(store, "xy", "AB", [[1.0, 7.0], [2.0, 8.0]])
    broken = damage(store.read(path))
    Path(store.url, path).write_bytes(broken)
    with caplog.at_level(logging.WARNING):
        assert cells(store, "xyz", "AB") == [[1.0, None], [None, None], [3.0, None]]
    (record,) = caplog.records
    said = record.getMessage()
    assert record.levelname == "WARNING"
    assert said.startswith(f"{store.url}/{path} is damaged (")
    assert said.endswith(f"): moved to {store.url}/damaged/{path}; its cells are computed again where needed")
    assert objects(store) == {kept: store.read(kept), f"damaged/{path}": broken}
    caplog.clear()
    assert cells(store, "xyz", "AB") == [[1.0, None], [None, None], [3.0, None]]
    assert caplog.records == []
    assert put(store, "xy", "AB", [[1.0, 7.0], [2.0, 8.0]]) == path
    assert cells(store, "xyz", "AB") == [[1.0, 7.0], [2.0, 8.0], [3.0, None]]


def test_readers_that_meet_a_damaged_block_at_once_all_read_without_it(store):
    put(store, "x", "A", [[1.0]])
    path = put(store, "y", "A", [[2.0]])
    Path(store.url, path).write_bytes(b"damaged")
    with ThreadPoolExecutor() as threads:
        readings = [threads.submit(cells, store, "xy", "A") for _ in range(6)]
        assert [reading.result() for reading in readings] == [[[1.0], [None]]] * 6
    assert store.read(f"damaged/{path}") == b"damaged"


def test_blocks_whose_names_were_swapped_are_both_quarantined(store, caplog):
    one, other = put(store, "x", "A", [[1.0]]), put(store, "y", "A", [[2.0]])
    kept = put(store, "z", "A", [[3.0]])
    contents = {one: store.read(other), other: store.read(one)}
    for path, content in contents.items():
        store.write(path, content)
    assert cells(store, "xyz", "A") == [[None], [None], [3.0]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{store.url}/{path} is damaged (its content does not have the digest in its name): moved to "
        f"{store.url}/damaged/{path}; its cells are computed again where needed"
        for path in sorted(contents)
    ]
    assert objects(store) == {kept: store.read(kept)} | {f"damaged/{path}": data for path, data in contents.items()}


def test_only_the_requested_columns_of_a_block_are_read_and_verified(store):
    path = put(store, "xyz", "ABC", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, NAN, 9.0]])
    part = read_block(store, path, ["C", "Q", "A", "C"])
    assert part is not None and (part.candidate_ids, part.anchor_ids) == (("x", "y", "z"), ("C", "A"))
    assert part.values.tolist() == [[3.0, 1.0], [6.0, 4.0], [9.0, 7.0]]
    nothing = read_block(store, path, ["Q"])
    assert nothing is not None and (nothing.candidate_ids, nothing.anchor_ids) == ((), ())
    broken = flipped(store.read(path))  # in the column of B
    Path(store.url, path).write_bytes(broken)
    assert cells(store, "xyz", "AC") == [[1.0, 3.0], [4.0, 6.0], [7.0, 9.0]]
    assert store.list("damaged") == []
    assert cells(store, "xyz", "B") == [[None]] * 3
    assert store.list("damaged") == [f"damaged/{path}"]


def test_a_block_without_digests_of_its_columns_is_read_whole(store):
    path = put(store, "xy", "AB", [[1.0, 2.0], [3.0, NAN]])
    earlier = pq.read_table(f"{store.url}/{path}").replace_schema_metadata({"format_version": "2"})
    pq.write_table(earlier, f"{store.url}/{path}")
    assert cells(store, "yx", "B") == [[None], [2.0]]
    found = read_block(store, path, ["B"])
    assert found is not None and found.digest == Path(path).stem
    assert store.list("damaged") == []


@pytest.mark.parametrize("change", ["another type", "other candidates", "other values", "another name"])
def test_columns_that_do_not_match_their_digests_are_refused(store, change):
    path = put(store, "xy", "AB", [[1.0, 2.0], [3.0, 4.0]])
    table = pq.read_table(f"{store.url}/{path}")
    ids, a, b = table.columns
    columns = {
        "another type": {"candidate_id": ids, "A": a, "B": pa.array(b.to_numpy().view(np.int32))},
        "other candidates": {"candidate_id": ["x", "z"], "A": a, "B": b},
        "other values": {"candidate_id": ids, "A": a, "B": a},
        "another name": {"candidate_id": ids, "A": a, "C": b},
    }[change]
    forged = pa.table(columns).replace_schema_metadata(table.schema.metadata)
    pq.write_table(forged, f"{store.url}/{path}", write_page_checksum=True)
    assert read_block(store, path, ["B"]) is None
    assert store.list("damaged") == [f"damaged/{path}"]


def test_a_wide_block_and_a_shard_of_it_meet_where_their_ids_do(store):
    put(store, "bdfhj", "A", [[1.0], [2.0], [3.0], [4.0], [5.0]])
    for asked in ("abc", "j", "a", "kz", "ceg", "hfd", "bj", "bdfhj"):
        known = dict(zip("bdfhj", range(1, 6), strict=True))
        assert cells(store, asked, "A") == [[known.get(letter)] for letter in asked]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to a limit on memory")
def test_a_block_is_not_damaged_because_memory_is_short(store):
    ids = tuple(f"{number:032x}" for number in range(300_000))
    path = write_block(store, FOLDER, CellBlock(ids, ("A",), np.ones((len(ids), 1), dtype=np.float32)))
    before = objects(store)
    *said, last = run(_LITTLE_MEMORY, store.url).splitlines()
    short = f"True could not read {store.url}/{path}: out of memory. Run fewer tasks or other programs at a time "
    assert [line[: len(short)] for line in said] == [short] * 3
    assert last == "read"
    assert objects(store) == before


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that can be opened and not be read")
def test_a_block_is_not_damaged_because_the_disk_does_not_answer(store, caplog):
    path = Path(store.url, FOLDER, "block.parquet")
    path.parent.mkdir(parents=True)
    path.symlink_to("/proc/self/mem")  # its first page is not mapped: an input/output error
    with pytest.raises(
        StoreError, match=f"^could not read {path}: .+\\. The file is unchanged: run again, "
    ) as refused:
        read_block(store, f"{FOLDER}/block.parquet")
    assert refused.value.retry_can_help and refused.value.__cause__.errno
    assert (caplog.records, path.is_symlink()) == ([], True)


@pytest.mark.parametrize("damage", ["empty", "other content", "flipped"])
def test_a_block_that_was_read_wrongly_once_is_read_again_and_stays(store, caplog, monkeypatch, damage):
    path = put(store, "xy", "AB", [[1.0, 7.0], [2.0, 8.0]])
    opened = Store.open
    readings: list[str] = []

    def wrong_at_first(self: Store, path: str) -> BinaryIO:
        readings.append(path)
        with opened(self, path) as file:
            return io.BytesIO(DAMAGES[damage](file.read()) if len(readings) == 1 else file.read())

    monkeypatch.setattr(Store, "open", wrong_at_first)
    (found,) = read_folder(store, FOLDER)
    assert found.values.tolist() == [[1.0, 7.0], [2.0, 8.0]]
    assert (readings, store.list("damaged"), store.exists(path)) == ([path, path], [], True)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{store.url}/{path} was read wrongly once (")


def test_a_flipped_bit_gives_the_same_numbers_or_an_error_with_the_file(store):
    whole, part = block("xy", "AB", [[1.5, -2.0], [3.0, NAN]]), block("xy", "B", [[-2.0], [NAN]])
    path = write_block(store, FOLDER, whole)
    data = store.read(path)
    logging.getLogger("nuggets.cells.blocks").disabled = True
    try:
        for position in range(5, len(data) * 8, 17):  # a prime: of every byte of the file another bit
            damaged = bytearray(data)
            damaged[position // 8] ^= 1 << position % 8
            Path(store.url, path).parent.mkdir(parents=True, exist_ok=True)
            Path(store.url, path).write_bytes(damaged)
            for anchors in (None, ["B", "C"]):
                try:
                    found = read_block(store, path, anchors)
                except StoreError as error:  # the name of the format's version has no checksum
                    assert str(error).startswith(f"{store.url}/{path} has format version ")
                    continue
                assert found is None or found.digest in (whole.digest, part.digest)
                if found is None:
                    break
    finally:
        logging.getLogger("nuggets.cells.blocks").disabled = False


def test_in_a_store_that_can_not_be_written_a_damaged_block_is_left_and_read_without():
    folder = Path(tempfile.mkdtemp())  # not tmp_path: its parents are closed to other users
    try:
        folder.chmod(0o755)
        store = Store(str(folder))
        kept, path = put(store, "x", "A", [[1.0]]), put(store, "y", "A", [[2.0]])
        Path(store.url, path).write_bytes(b"damaged")
        before = objects(store)
        closed = [item for item in (folder, *folder.rglob("*")) if item.is_dir()]
        for item in closed:
            item.chmod(0o555)
        said = run(_NOBODY, folder).splitlines()
        for item in closed:
            item.chmod(0o755)
        assert objects(store) == before
    finally:
        for item in (folder, *folder.rglob("*")):
            item.chmod(0o755)
        shutil.rmtree(folder)
    assert said[-1] == "[[1.0], [nan]]"
    (warning,) = said[:-1]
    assert warning.startswith(f"WARNING {folder}/{path} is damaged (")
    assert f"): not moved (could not write {folder}/damaged/{path}: " in warning
    assert kept != path


def test_a_block_that_can_not_be_read_now_is_not_taken_for_a_damaged_one():
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        store = Store(str(folder))
        path = put(store, "x", "A", [[1.0]])
        Path(store.url, path).chmod(0)
        said = run(_NOT_READABLE, folder, path)
        Path(store.url, path).chmod(0o644)
        assert cells(store, "x", "A") == [[1.0]]
    finally:
        shutil.rmtree(folder)
    assert said.startswith(f"could not read {folder}/{path}: ")


def test_compact_joins_all_to_one_object_and_changes_nothing_the_second_time(store):
    expected = [[float(row), None if row % 3 else -row / 4] for row in range(1, 8)]
    for row in range(1, 8):
        put(store, "abcdefgh"[row], "AB", [[row, NAN if row % 3 else -row / 4]])
    put(store, "bc", "A", [[1.0], [2.0]])
    compact(store, FOLDER)
    before = objects(store)
    assert len(before) == 1
    assert cells(store, "bcdefgh", "AB") == expected
    compact(store, FOLDER)
    assert objects(store) == before


def test_compact_of_a_folder_without_blocks_or_with_one_does_nothing(store):
    compact(store, FOLDER)
    path = put(store, "x", "A", [[1.0]])
    before = objects(store)
    compact(store, FOLDER)
    assert objects(store) == before
    assert list(before) == [path]


def test_compact_deletes_a_covered_block_and_keeps_one_with_another_value(store):
    large = put(store, "xy", "AB", [[1.0, 2.0], [3.0, 4.0]])
    put(store, "y", "B", [[4.0]])
    compact(store, FOLDER)
    assert store.list("") == [large]
    other = put(store, "x", "A", [[0.5]])
    compact(store, FOLDER)
    assert store.list("") == sorted([large, other])
    assert cells(store, "x", "A") == [[kept("x", "A", 1.0, 0.5)]]


@pytest.mark.parametrize("whole", [0, 1, 3])
def test_compact_keeps_every_cell_also_where_a_damaged_block_lies_among_them(store, whole):
    damaged = put(store, "z", "A", [[9.0]])
    Path(store.url, damaged).write_bytes(b"damaged")
    for row in range(whole):
        put(store, "abc"[row], "A", [[row]])
    compact(store, FOLDER)
    assert cells(store, "abcz", "A") == [[float(row)] if row < whole else [None] for row in range(3)] + [[None]]
    assert len(list_blocks(store, FOLDER)) == min(whole, 1)
    assert store.read(f"damaged/{damaged}") == b"damaged"


def test_threads_that_write_and_join_one_folder_hide_no_cell_from_a_reader(store):
    written: list[tuple[str, float]] = []

    def write(writer: int) -> None:
        for number in range(10):
            own = CellBlock((f"{writer}-{number}", "all"), ("A",), np.float32([[-number - 1], [-writer]]))
            write_block(store, FOLDER, own)
            written.append((own.candidate_ids[0], -number - 1.0))
            compact(store, FOLDER)

    with ThreadPoolExecutor() as threads:
        writing = [threads.submit(write, writer) for writer in range(3)]
        while not all(work.done() for work in writing):
            candidates, values = zip(*written, strict=True) if written else ((), ())
            assert read_cells(store, FOLDER, candidates, ["A"])[:, 0].tolist() == list(values)
        assert [work.result() for work in writing] == [None] * 3
    compact(store, FOLDER)
    assert len(store.list("")) == 3  # the writers disagree about one cell
    candidates, values = zip(*written, ("all", kept("all", "A", 0.0, -1.0, -2.0)), strict=True)
    assert len(values) == 31
    assert read_cells(store, FOLDER, candidates, ["A"])[:, 0].tolist() == list(values)


def test_processes_that_write_and_join_one_folder_lose_no_cell(store):
    # Half of the rows are both processes'.
    arguments = [sys.executable, "-c", _WRITE_AND_COMPACT, store.url]
    children = [subprocess.Popen([*arguments, str(start)], stderr=subprocess.PIPE, text=True) for start in (1, 7)]
    while any(child.poll() is None for child in children):
        for found in read_folder(store, FOLDER):  # a block is whole or not there, at every moment
            for candidate, row in zip(found.candidate_ids, found.values.tolist(), strict=True):
                assert -int(candidate[1:]) in row
    assert [(child.communicate()[1], child.returncode) for child in children] == [("", 0), ("", 0)]
    expected = [[-row, None] if row % 2 else [None, -row] for row in range(1, 19)]
    found = read_cells(store, FOLDER, [f"c{row}" for row in range(1, 19)], ["A", "B"])
    assert [[None if np.isnan(value) else value for value in row] for row in found.tolist()] == expected
    compact(store, FOLDER)
    assert len(store.list("")) == 1
    assert store.list("damaged") == []


def test_a_reader_lists_again_after_blocks_were_joined(store, monkeypatch):
    one, other = put(store, "x", "A", [[1.0]]), put(store, "y", "A", [[2.0]])
    listed = [[one, other]]  # as it was before another process joined them
    compact(store, FOLDER)

    def stale_at_first(self: Store, folder: str, suffix: str) -> list[str]:
        return listed.pop() if listed else sorted(f"{FOLDER}/{name}" for name in os.listdir(f"{self.url}/{FOLDER}"))

    monkeypatch.setattr(Store, "list", stale_at_first)
    assert cells(store, "xy", "A") == [[1.0], [2.0]]
    listed.append([one, other])
    compact(store, FOLDER)
    assert cells(store, "xy", "A") == [[1.0], [2.0]]


@given(data=st.data(), candidates=st.integers(1, 6), anchors=st.integers(1, 5))
def test_blocks_that_cover_a_table_read_back_as_it_whenever_they_are_joined(
    tmp_path_factory, data, candidates, anchors
):
    store = Store(str(tmp_path_factory.mktemp("store")))
    names = [f"c{row}" for row in range(candidates)]
    columns = [f"a{column}" for column in range(anchors)]
    table = -np.arange(candidates * anchors, dtype=np.float32).reshape(candidates, anchors)
    for row_part in set_partition(data, candidates):
        for column_part in set_partition(data, anchors):
            more = data.draw(st.permutations(range(candidates)))[: data.draw(st.integers(0, 2))]
            rows = list(dict.fromkeys([*row_part, *more]))  # blocks overlap
            values = table[np.ix_(rows, column_part)].copy()
            values[len(row_part) :] -= data.draw(st.sampled_from([0, NAN]))
            part = CellBlock(tuple(names[row] for row in rows), tuple(columns[item] for item in column_part), values)
            write_block(store, FOLDER, part)
            if data.draw(st.booleans()):
                compact(store, FOLDER)
                assert len(store.list("")) == 1
    assert read_cells(store, FOLDER, names, columns).tolist() == table.tolist()


def set_partition(data: st.DataObject, size: int) -> list[list[int]]:
    """The numbers below `size`, in parts, each in some order."""
    order = data.draw(st.permutations(range(size)))
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1))) if size > 1 else [])
    return [order[start:stop] for start, stop in zip([0, *cuts], [*cuts, size], strict=True)]
