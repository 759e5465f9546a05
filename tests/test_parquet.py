"""Tables as Parquet files in a real folder, whole and damaged."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nuggets.errors import DamagedTable, StoreError
from nuggets.store.parquet import read_batches, read_table, save_tables, table_bytes
from nuggets.store.store import Store

COLUMNS = {
    "id": ["a" * 32, "b" * 32, "c" * 32],
    "row": pa.array([3, 1, 2], pa.int64()),
    "value": pa.array([1.5, 2.0, -0.25], pa.float32()),
}
ROWS = {"id": COLUMNS["id"], "row": [3, 1, 2], "value": [1.5, 2.0, -0.25]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_a_table_comes_back_whole_or_in_part_with_its_metadata(store):
    store.write("t.parquet", table_bytes(COLUMNS, metadata={"version": "7"}))
    assert read_table(store, "t.parquet").to_pydict() == ROWS
    assert read_table(store, "t.parquet").schema.metadata == {b"version": b"7"}
    assert read_table(store, "t.parquet", ["value", "id"]).to_pydict() == {"value": ROWS["value"], "id": ROWS["id"]}


def test_the_same_columns_give_the_same_bytes_however_they_lie_in_memory():
    chunked = {name: pa.chunked_array([pa.array(column)[:1], pa.array(column)[1:]]) for name, column in COLUMNS.items()}
    padded = {name: pa.concat_arrays([pa.array(column)[2:], pa.array(column)])[1:] for name, column in COLUMNS.items()}
    assert table_bytes(chunked) == table_bytes(padded) == table_bytes(COLUMNS)


def test_each_table_is_a_row_group_and_is_read_as_one(store, tmp_path):
    parts = [pa.table({"n": [1, 2]}), pa.table({"n": pa.array([], pa.int64())}), pa.table({"n": [3]})]
    assert save_tables(tmp_path / "n.parquet", iter(parts)) == 3
    store.write_file("n.parquet", tmp_path / "n.parquet")
    assert [batch["n"].to_pylist() for batch in read_batches(store, "n.parquet")] == [[1, 2], [], [3]]
    assert [batch.column_names for batch in read_batches(store, "n.parquet", [])] == [[], [], []]
    assert read_table(store, "n.parquet").to_pydict() == {"n": [1, 2, 3]}


def test_no_tables_are_no_file(tmp_path):
    with pytest.raises(ValueError, match="^no tables: a file needs at least one for its columns$"):
        save_tables(tmp_path / "n.parquet", [])
    assert list(tmp_path.iterdir()) == []


def test_only_one_table_at_a_time_is_taken_and_given(store, tmp_path):
    lives: list[int] = []

    def tables():
        for number in range(3):
            lives.append(number)
            yield pa.table({"n": [number]})

    save_tables(tmp_path / "n.parquet", tables())
    store.write_file("n.parquet", tmp_path / "n.parquet")
    batches = read_batches(store, "n.parquet")
    assert next(batches)["n"].to_pylist() == [0]
    Path(store.url, "n.parquet").unlink()  # the file is open still, and what it holds is not in memory
    assert next(batches)["n"].to_pylist() == [1]


def test_a_missing_table_is_named_by_its_address(store):
    for attempt in (lambda: read_table(store, "t.parquet"), lambda: list(read_batches(store, "t.parquet"))):
        with pytest.raises(FileNotFoundError) as missing:
            attempt()
        assert missing.value.filename == f"{store.url}/t.parquet"


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-20], lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PAR1 no PAR1"],
)
def test_a_truncated_table_is_an_error_that_names_the_file(store, damage):
    store.write("a/t.parquet", damage(table_bytes(COLUMNS)))
    for attempt in (lambda: read_table(store, "a/t.parquet"), lambda: list(read_batches(store, "a/t.parquet"))):
        with pytest.raises(DamagedTable) as refused:
            attempt()
        assert isinstance(refused.value, StoreError)
        assert str(refused.value).startswith(f"{store.url}/a/t.parquet is damaged and can't be read as Parquet (")
        assert str(refused.value).endswith("): delete this file and run again; only its content is computed again")


@pytest.mark.parametrize("way", ["bytes", "tables"])
def test_a_flipped_bit_in_a_page_is_an_error_with_the_file(store, tmp_path, way):
    numbers = np.random.default_rng(0).permutation(4000).astype(np.float32)
    table = pa.table({"value": numbers, "text": [f"line {number:.0f}" for number in numbers]})
    if way == "bytes":
        store.write("t.parquet", table_bytes({name: table[name] for name in table.column_names}))
    else:
        save_tables(tmp_path / "t.parquet", [table[:2000], table[2000:]])
        store.write_file("t.parquet", tmp_path / "t.parquet")
    file = Path(store.url, "t.parquet")
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in np.linspace(200, footer - 200, 24, dtype=int).tolist():
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        for attempt in (lambda: read_table(store, "t.parquet"), lambda: list(read_batches(store, "t.parquet"))):
            with pytest.raises(DamagedTable, match=f"^{file} is damaged and can't be read as Parquet "):
                attempt()


def test_a_flipped_bit_anywhere_never_gives_another_number(store):
    store.write("t.parquet", table_bytes(COLUMNS))
    file = Path(store.url, "t.parquet")
    whole = file.read_bytes()
    refused = 0
    for position in range(3, len(whole) * 8, 19):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        file.write_bytes(damaged)
        try:
            found = read_table(store, "t.parquet", ["row", "value"]).to_pydict()
        except DamagedTable:
            refused += 1
        else:
            assert found == {"row": ROWS["row"], "value": ROWS["value"]}
    assert refused > 100
