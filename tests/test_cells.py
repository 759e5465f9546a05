"""Blocks of cells, written and read back from a real folder."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuggets.addresses import digest, scoring_key
from nuggets.cells import CellBlock, group_of, read_cells, write_block
from nuggets.errors import StoreError
from nuggets.store import Store

KEY = "k" * 32
NAN = float("nan")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def block(candidates: str, anchors: str, values: list[list[float]]) -> CellBlock:
    """A block whose ids are single letters."""
    return CellBlock(tuple(candidates), tuple(anchors), np.array(values, dtype=np.float32))


def cells(store: Store, candidates: str, anchors: str, *, group: str | None = None) -> list[list[float | None]]:
    """Cells with None in place of NaN, so that tables can be compared whole."""
    found = read_cells(store, KEY, list(candidates), list(anchors), group=group)
    assert found.dtype == np.float32
    assert found.shape == (len(candidates), len(anchors))
    return [[None if np.isnan(value) else float(value) for value in row] for row in found]


def test_a_block_comes_back_as_it_was_written_in_any_order_and_in_part(store):
    write_block(store, KEY, "g", block("xyz", "AB", [[1.5, -2.0], [3.0, 4.25], [-5.0, 0.0]]))
    assert cells(store, "xyz", "AB") == [[1.5, -2.0], [3.0, 4.25], [-5.0, 0.0]]
    assert cells(store, "zx", "BA") == [[0.0, -5.0], [-2.0, 1.5]]
    assert cells(store, "y", "B") == [[4.25]]
    assert cells(store, "y", "BAB") == [[4.25, 3.0, 4.25]]


def test_what_is_not_stored_is_nan(store):
    assert cells(store, "xy", "A") == [[None], [None]]
    write_block(store, KEY, "g", block("xy", "AB", [[1.0, NAN], [2.0, 3.0]]))
    assert cells(store, "qyx", "CBA") == [[None, None, None], [None, 3.0, 2.0], [None, None, 1.0]]
    assert cells(store, "", "A") == []


def test_blocks_with_different_anchors_and_candidates_merge(store):
    write_block(store, KEY, "g", block("xy", "AB", [[1.0, 2.0], [3.0, NAN]]))
    write_block(store, KEY, "g", block("yz", "BC", [[4.0, 5.0], [6.0, 7.0]]))
    expected = [[1.0, 2.0, None], [3.0, 4.0, 5.0], [None, 6.0, 7.0]]
    assert cells(store, "xyz", "ABC") == expected


@pytest.mark.parametrize("groups", [("1", "2"), ("2", "1")])
def test_nan_never_hides_a_number_whichever_block_is_read_first(store, groups):
    write_block(store, KEY, groups[0], block("x", "AB", [[1.0, NAN]]))
    write_block(store, KEY, groups[1], block("x", "AB", [[NAN, 2.0]]))
    assert cells(store, "x", "AB") == [[1.0, 2.0]]


def test_a_group_sees_its_own_blocks_only_and_no_scoring_key_sees_anothers(store):
    write_block(store, KEY, group_of(["x"]), block("x", "A", [[1.0]]))
    write_block(store, KEY, group_of(["y"]), block("y", "A", [[2.0]]))
    write_block(store, "other", "g", block("z", "A", [[3.0]]))
    assert cells(store, "xyz", "A", group=group_of(["x"])) == [[1.0], [None], [None]]
    assert cells(store, "xyz", "A") == [[1.0], [2.0], [None]]


def test_a_group_is_told_by_its_candidates_and_their_order():
    assert group_of(["x", "y"]) == group_of(("x", "y"))
    assert len({group_of(["x", "y"]), group_of(["y", "x"]), group_of(["xy"]), group_of([])}) == 4


def test_the_same_block_written_twice_is_one_object(store):
    first = write_block(store, KEY, "g", block("xy", "A", [[1.0], [2.0]]))
    content = store.read(first)
    assert write_block(store, KEY, "g", block("xy", "A", [[1.0], [2.0]])) == first
    assert store.list("cells") == [first]
    assert store.read(first) == content


def test_an_anchor_that_stands_twice_in_a_block_is_one_column(store):
    path = write_block(store, KEY, "g", block("x", "AA", [[1.0, 1.0]]))
    assert pq.read_table(f"{store.url}/{path}").column_names == ["candidate_id", "A"]
    assert cells(store, "x", "AA") == [[1.0, 1.0]]


def test_foreign_files_and_leftovers_of_killed_writers_are_not_read(store):
    path = write_block(store, KEY, "g", block("x", "A", [[1.0]]))
    folder = Path(store.url, path).parent
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "notes.txt").write_text("do not delete")
    (folder / ".pending-x1.parquet").write_bytes(b"half a blo")
    (folder.parent / ".pending-9f").write_bytes(b"")
    assert cells(store, "x", "A") == [[1.0]]


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_truncated_block_is_named(store, damage):
    path = write_block(store, KEY, "g", block("xy", "A", [[1.0], [2.0]]))
    whole = Path(store.url, path)
    whole.write_bytes(damage(whole.read_bytes()))
    with pytest.raises(StoreError) as refused:
        cells(store, "x", "A")
    assert str(refused.value).startswith(f"{whole} is damaged and can't be read as Parquet (")
    assert str(refused.value).endswith("): delete this file and run again; only what it held is computed anew")


@pytest.mark.parametrize(("metadata", "version"), [({"format_version": "2"}, "2"), ({}, "none")])
def test_a_block_of_another_format_is_refused_by_its_name(store, metadata, version):
    folder = Path(store.url, "cells", KEY, "g")
    folder.mkdir(parents=True)
    table = pa.table({"candidate_id": ["x"], "A": pa.array([1.0], pa.float32())}).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "later.parquet")
    with pytest.raises(StoreError) as refused:
        cells(store, "x", "A")
    assert str(refused.value) == (
        f"{folder}/later.parquet has format version {version}, this program reads 1: "
        "use the version of nuggets that wrote it, or another store"
    )


def test_a_block_says_in_its_file_what_it_is(store):
    path = write_block(store, KEY, "g", block("xy", "AB", [[1.0, 2.0], [3.0, 4.0]]))
    assert path.startswith(f"cells/{KEY}/g/")
    stored = pq.read_table(f"{store.url}/{path}")
    assert stored.schema.metadata == {b"format_version": b"1", b"scoring_key": KEY.encode()}
    assert stored.schema.types == [pa.string(), pa.float32(), pa.float32()]
    assert stored.to_pydict() == {"candidate_id": ["x", "y"], "A": [1.0, 3.0], "B": [2.0, 4.0]}


@given(data=st.data(), candidates=st.integers(1, 6), anchors=st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_any_partition_of_a_table_into_blocks_reads_back_the_same(tmp_path_factory, data, candidates, anchors):
    store = Store(str(tmp_path_factory.mktemp("store")))
    names = [f"c{row}" for row in range(candidates)]
    columns = [f"a{column}" for column in range(anchors)]
    table = -np.arange(candidates * anchors, dtype=np.float32).reshape(candidates, anchors)
    for row_part in set_partition(data, candidates):
        for column_part in set_partition(data, anchors):
            part = CellBlock(
                tuple(names[row] for row in row_part),
                tuple(columns[column] for column in column_part),
                table[np.ix_(row_part, column_part)],
            )
            write_block(store, KEY, group_of(part.candidate_ids), part)
    assert read_cells(store, KEY, names, columns).tolist() == table.tolist()


def set_partition(data: st.DataObject, size: int) -> list[list[int]]:
    """The numbers below `size`, in parts, each in some order."""
    order = data.draw(st.permutations(range(size)))
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1))) if size > 1 else [])
    return [order[start:stop] for start, stop in zip([0, *cuts], [*cuts, size], strict=True)]


def test_cells_of_refined_demonstrations_lie_apart_and_the_others_where_they_always_were():
    of = {"model": "m", "profile": "released", "demonstration_tokens": 9, "anchor_tokens": 200, "dtype": "float32"}
    plain = scoring_key(**of)
    assert plain == digest({"scoring_version": 1, **of})
    assert scoring_key(**of, kv_iter=1) == plain
    assert len({plain, scoring_key(**of, kv_iter=2), scoring_key(**of, kv_iter=3)}) == 3
