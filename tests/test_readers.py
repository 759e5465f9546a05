"""Pools in every format, whole and damaged, read from real files."""

import codecs
import csv
import datetime
import decimal
import gzip
import hashlib
import io
import json
import math
import struct
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_datasets import save_dataset

from nuggets.errors import InputError, UsageError
from nuggets.examples import Example, PoolRow, Position, Reject, RejectReason
from nuggets.pools.readers.content_digest import ContentDigest, combined_digest
from nuggets.pools.readers.detect import PoolSource, check_unchanged, find_source, source_digest
from nuggets.pools.readers.formats import PoolFile
from nuggets.pools.readers.json_rows import read_array, read_lines
from nuggets.pools.readers.rows import read_pool

LIMIT = 1_000_000
ROWS: list[dict[str, Any]] = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": 'Say "hé\\llo" ],[ {}', "input": "", "output": "line\nline 𝄞"},
    {"instruction": "Count.", "input": "", "output": "1"},
]
NOT_JSON = b'{"instruction": "Add.'


def pool_row(value: dict[str, Any]) -> PoolRow:
    return PoolRow(Example(value["instruction"], value["input"], value["output"]), value)


USED = [pool_row(value) for value in ROWS]


def read(path: Path | str, *, max_row_bytes: int = LIMIT) -> list[PoolRow | Reject]:
    return [item for _, item in numbered(path, max_row_bytes=max_row_bytes)]


def numbered(path: Path | str, *, max_row_bytes: int = LIMIT) -> list[tuple[Position, PoolRow | Reject]]:
    """The rows of a pool with their positions, which count from 0 without a gap."""
    rows = list(read_pool(find_source(str(path)), max_row_bytes=max_row_bytes))
    assert [position.row for position, _ in rows] == list(range(len(rows)))
    return rows


def source_of(path: Path | str, *files: tuple[str, str]) -> PoolSource:
    """The source of a pool whose files have these addresses and formats."""
    return PoolSource(str(path), tuple(PoolFile(*file) for file in files))  # type: ignore[arg-type]


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(rows: list[Any], end: bytes = b"\n", **options: Any) -> bytes:
    return b"".join(json.dumps(row, **options).encode() + end for row in rows)


def array(rows: list[Any], **options: Any) -> bytes:
    return json.dumps(rows, **options).encode()


# Finding a pool


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pool.json", array(ROWS)),
        ("pool.JSON", codecs.BOM_UTF8 + b"\r\n\t " + array(ROWS, indent=2)),
        ("pool.json", b" " * 200_000 + array(ROWS)),
        ("pool.json.gz", array(ROWS)),
        ("pool.json", lines(ROWS)),
        ("pool.jsonl", lines(ROWS)),
        ("pool.jsonl", lines(ROWS, b"\r\n")),
        ("pool.jsonl", b"\n \n" + lines(ROWS, b"\n\n \t\r\n").rstrip()),
        ("pool.ndjson", codecs.BOM_UTF8 + lines(ROWS, ensure_ascii=False)),
        ("pool.ndjson.gz", codecs.BOM_UTF8 + lines(ROWS)),
        ("pool.JSONL.GZ", lines(ROWS)),
    ],
)
def test_json_pools(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    assert find_source(str(path)) == source_of(path, (str(path), "json"))
    assert read(path) == USED


def test_a_parquet_file_and_a_folder_of_them_in_sorted_order(tmp_path: Path) -> None:
    for name, rows in [("b.parquet", ROWS[2:]), ("a.parquet", ROWS[:2])]:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    for name in ("README.md", "._a.parquet", "_metadata"):
        (tmp_path / name).write_text("no rows")
    files = [(str(tmp_path / name), "parquet") for name in ("a.parquet", "b.parquet")]
    assert find_source(f"{tmp_path}/") == source_of(f"{tmp_path}/", *files)
    assert read(tmp_path) == USED
    assert read(tmp_path / "a.parquet") == USED[:2]


def test_a_folder_saved_by_datasets(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "saved", ROWS, files=2)
    files = [(f"{folder}/data-0000{number}-of-00002.arrow", "arrow") for number in range(2)]
    assert find_source(str(folder)) == source_of(folder, *files)
    assert read(folder) == USED


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_indices_data_files": [{"filename": "indices.arrow"}]}, "flatten_indices"),
        ({"_data_files": []}, "empty dataset"),
        ({"_data_files": None}, "names no _data_files"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "gone.arrow' is named in state.json but missing"),
    ],
)
def test_a_saved_dataset_that_is_not_whole(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    folder = save_dataset(tmp_path / "saved", ROWS, **state)
    with pytest.raises(UsageError, match=message):
        find_source(str(folder))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_saved_dataset_with_a_broken_state(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(UsageError, match="state.json' "):
        find_source(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("pool.json", b"", "is an empty file"),
        ("pool.jsonl", b" \r\n\n", "has no rows"),
        ("pool.jsonl", codecs.BOM_UTF8, "has no rows"),
        ("pool.json.gz", b"", "has no rows"),
        ("pool.parquet", b"", "is an empty file"),
        ("pool.txt", b"a,b", r"not known. Known formats: JSON .* Parquet;.*save_to_disk"),
        ("pool", b"a,b", "not known"),
        ("pool.xlsx", b"PK\x03\x04...", "is a zip archive or a spreadsheet"),
        ("pool.parquet.gz", b"PAR1", "not known"),
    ],
)
def test_what_is_not_a_pool(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = written(tmp_path / name, data)
    with pytest.raises(UsageError, match=message):
        find_source(str(path))


def test_nothing_at_the_address(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no file or folder at '{tmp_path}/gone.json'"):
        find_source(f"{tmp_path}/gone.json")
    with pytest.raises(UsageError, match=rf"no file or folder at 'gone.json' \({Path.cwd()}/gone.json\)"):
        find_source("gone.json")
    with pytest.raises(UsageError, match="no file or folder at 'memory://gone/pool.json'"):
        find_source("memory://gone/pool.json")
    with pytest.raises(UsageError, match="^no pool in the folder"):
        find_source(str(tmp_path))


@pytest.fixture
def memory() -> Iterator[Any]:
    """An object store in this process: fsspec's own file system behind memory:// URLs."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


def test_every_format_behind_a_url(tmp_path: Path, memory: Any) -> None:
    save_dataset(tmp_path / "saved", ROWS)
    written(tmp_path / "pool.json", array(ROWS))
    written(tmp_path / "pool.jsonl.gz", lines(ROWS))
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "parts" / "0.parquet")
    memory.put(str(tmp_path), "/bucket/pools", recursive=True)
    urls = {
        "memory://bucket/pools/saved": ("arrow", "memory://bucket/pools/saved/data-00000-of-00001.arrow"),
        "memory://bucket/pools/pool.json": ("json", "memory://bucket/pools/pool.json"),
        "memory://bucket/pools/pool.jsonl.gz": ("json", "memory://bucket/pools/pool.jsonl.gz"),
        "memory://bucket/pools/parts/": ("parquet", "memory://bucket/pools/parts/0.parquet"),
    }
    for url, (kind, file) in urls.items():
        assert find_source(url) == source_of(url, (file, kind))
        assert read(url) == USED
        local = find_source(url.replace("memory://bucket/pools", str(tmp_path)))
        assert source_digest(find_source(url)) == source_digest(local)


def test_relative_and_absolute_paths_mean_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "pool.json", array(ROWS))
    monkeypatch.chdir(tmp_path)
    urls = ("pool.json", "./pool.json", str(path))
    assert [find_source(url) for url in urls] == [source_of(url, (str(path), "json")) for url in urls]


def test_the_digest_is_that_of_the_file_or_of_the_digests_of_all_files_in_order(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "saved", ROWS, files=2)
    paths = sorted(folder.glob("*.arrow"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert source_digest(find_source(str(paths[0]))) == digests[0]
    both = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert source_digest(find_source(str(folder))) == both
    (folder / "dataset_info.json").write_text("{}")  # not content
    assert source_digest(find_source(str(folder))) == both


# JSON Lines: a line with a fault costs only itself


def test_lines_with_faults(tmp_path: Path) -> None:
    good = [json.dumps(row).encode() for row in ROWS]
    bad = [b'{"instruction": "\xff"}', b"{'a': 1}", b"[" * 100_000, b"9" * 5000, b"", b'["text"]', b"x" * 1001]
    path = written(tmp_path / "pool.jsonl", b"\n".join([good[0], *bad, good[1], b'{"instruction": NaN}', NOT_JSON]))
    assert read(path, max_row_bytes=200_000) == [
        pool_row(ROWS[0]),
        Reject(RejectReason.UNDECODABLE, "not UTF-8: byte 0xff at byte 18 of the row"),
        Reject(
            RejectReason.UNDECODABLE,
            "line 3 is not JSON: Expecting property name enclosed in double quotes at character 2",
        ),
        Reject(RejectReason.UNDECODABLE, "lists or objects are nested too deeply"),
        Reject(
            RejectReason.UNDECODABLE,
            "a number is too long: Exceeds the limit (4300 digits) for integer string conversion: "
            "value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit",
        ),
        Reject(RejectReason.NOT_AN_OBJECT, "the row is a list (['text']), wanted an object with fields"),
        Reject(RejectReason.UNDECODABLE, "line 8 is not JSON: Expecting value at character 1"),
        pool_row(ROWS[1]),
        Reject(RejectReason.MISSING_INSTRUCTION, "'instruction' is NaN"),
        Reject(RejectReason.UNDECODABLE, "line 11 is not JSON: Unterminated string starting at at character 17"),
    ]


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.json"])
def test_rows_above_the_size_limit(tmp_path: Path, name: str) -> None:
    exact, over = ROWS[0] | {"output": "3" * 500}, ROWS[0] | {"output": '"' * 900_000}
    rows = [ROWS[0], over, exact, exact | {"input": "12 4"}, over, over, ROWS[2], over]
    path = written(tmp_path / name, array(rows) if name == "pool.json" else lines(rows))
    reject = RejectReason.TOO_LARGE, f"the row has more than max_row_bytes={len(json.dumps(exact))} bytes"
    assert read(path, max_row_bytes=len(json.dumps(exact))) == [
        pool_row(ROWS[0]),
        Reject(*reject),
        pool_row(exact),
        Reject(*reject),
        Reject(*reject),
        Reject(*reject),
        pool_row(ROWS[2]),
        Reject(*reject),
    ]


# JSON arrays


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[]", []),
        (b"[ \n ] \r\n", []),
        (b"[1]", ["not_an_object"]),
        (
            b'[null, "],[", -1.5e3 , [[], {}], {"a": {"b": ["}"]}}, {}]',
            ["not_an_object"] * 4 + ["unknown_fields"] * 2,
        ),
        (b"[NaN, -Infinity, Infinity, 1e999]", ["not_an_object"] * 4),
        (b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]", ["undecodable"]),
        (b"[1,]", ["not_an_object", "undecodable"]),
        (b"[", ["undecodable"]),
        (b"[1", ["undecodable"]),
        (b"[1,", ["not_an_object", "undecodable"]),
        (b'["a\\', ["undecodable"]),
        (b"[" + b"9" * 5000, ["undecodable"]),
        (b"[" + b"9" * 5000 + b"]", ["undecodable"]),
        (b'["a\\\\"]', ["not_an_object"]),
        (b'["a\tb\nc"]', ["not_an_object"]),
        (b'["\\ud83d\\ude00"]', ["not_an_object"]),
        (b'[{"instruction": "\\ud83d"}]', ["undecodable"]),
    ],
)
def test_reasons_of_array_elements(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    results = read(written(tmp_path / "pool.json", data))
    assert [str(result.reason) for result in results if isinstance(result, Reject)] == expected
    assert len(results) == len(expected)


def test_nan_in_an_array(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"input": math.nan}, ROWS[1] | {"score": math.inf}, ROWS[2] | {"output": math.nan}]
    first, *others = read(written(tmp_path / "pool.json", array(rows)))
    assert isinstance(first, PoolRow) and first.example == Example("Add.", "", "3")
    assert others == [pool_row(rows[1]), Reject(RejectReason.MISSING_OUTPUT, "'output' is NaN")]


def test_bytes_that_are_not_utf8_cost_only_their_row(tmp_path: Path) -> None:
    data = array([*ROWS[:1], {"instruction": "Say X", "output": "e"}, *ROWS[1:2]]).replace(
        b"X", b"\xe2\x28\xed\xa0\x80"
    )
    assert read(written(tmp_path / "pool.json", data)) == [
        pool_row(ROWS[0]),
        Reject(RejectReason.UNDECODABLE, "not UTF-8: byte 0xe2 at byte 22 of the row"),
        pool_row(ROWS[1]),
    ]


def test_an_array_cut_anywhere_keeps_the_rows_before(tmp_path: Path) -> None:
    rows = [*ROWS, {"a": [True, None, -1.5e-7, {"b": '\\"\u00e9\t'}]}]
    data = array(rows, indent=1)
    ends = [len(array(rows[:count], indent=1)) - 2 for count in range(1, len(rows) + 1)]  # without "\n]"
    for cut in range(1, len(data)):
        results = read(written(tmp_path / "pool.json", data[:cut]))
        whole = sum(end < cut for end in ends[:-1] if data[end : end + 1] == b"," and end < cut)
        assert results[:whole] == USED[:whole], cut
        assert results[whole:] == [Reject(RejectReason.UNDECODABLE, "the file ends inside the array")], cut


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"a": 1}, {"b" 2}, {"c": 3}]', "row 1 is not JSON: Expecting ':' delimiter near"),
        (b'[{"a": 1} {"b": 2}]', "row 0 is not JSON: Extra data near"),
        (b'[{"a": 1}, {"b": tru}, 1]', "row 1 is not JSON: Expecting value near"),
        (b'[{"a": 1},, {"b": 2}]', "row 1: empty element between two commas"),
        (b'[{"a": [1}, {"b": 2}]', "row 0 is not JSON"),
        (b'[{"a": "x}, {"a": "y"}, {"a": "z"}]', "row 0 is not JSON: Expecting ',' delimiter near"),
        (b'[{"a": "x}, {"a": "' + b"y" * 5000 + b'"}]', "row 0 is not JSON"),  # above the limit, too
        (b'[{"a": 1}]\nx', "has content after the end of its array"),
        (b"[1]" + b" " * 600_000 + b"x", "has content after the end of its array"),
        (b'[{"a": "\xff" 1}]', "row 0 is not JSON"),
    ],
)
def test_syntax_errors_in_an_array_name_file_and_row(tmp_path: Path, data: bytes, message: str) -> None:
    path = written(tmp_path / "pool.json", data)
    with pytest.raises(InputError, match=message) as caught:
        read(path, max_row_bytes=1000)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["pool.json.gz", "pool.jsonl.gz"])
@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_damaged_gzip(tmp_path: Path, name: str, keep: float) -> None:
    rows = [ROWS[0] | {"id": hashlib.sha256(str(i).encode()).hexdigest()} for i in range(3000)]
    data = gzip.compress(array(rows) if name == "pool.json.gz" else lines(rows))
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=f"'{path}' is damaged gzip"):
        read(path)


# Tables


def test_missing_values_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "instruction": ["Add.", "Say.", None, "Do."],
            "input": [math.nan, "b", "c", None],
            "output": ["3", math.nan, "e", "f"],
            "seen": [pd.NaT, pd.Timestamp("2024-05-06T07:08:09", tz="UTC"), pd.NaT, pd.NaT],
            "weight": [math.nan, 1.0, 2.0, 0.5],
        }
    )
    frame.to_parquet(tmp_path / "pool.parquet")
    first, *others = read(tmp_path / "pool.parquet")
    assert isinstance(first, PoolRow)
    assert (first.example, first.original["seen"]) == (Example("Add.", "", "3"), None)
    assert others == [
        Reject(RejectReason.MISSING_OUTPUT, "'output' is null"),
        Reject(RejectReason.MISSING_INSTRUCTION, "'instruction' is null"),
        PoolRow(
            Example("Do.", "", "f"),
            {"instruction": "Do.", "input": None, "output": "f", "seen": None, "weight": 0.5},
        ),
    ]


def test_text_columns_that_hold_only_nan(tmp_path: Path) -> None:
    table = pa.table({"instruction": ["Q"], "input": [math.nan], "output": ["A"]})
    pq.write_table(table, tmp_path / "pool.parquet")
    (result,) = read(tmp_path / "pool.parquet")
    assert isinstance(result, PoolRow) and result.example == Example("Q", "", "A")


def test_all_columns_come_as_json_values(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    name = uuid.UUID(int=5)
    columns = {
        "instruction": pa.array([b"Q"]),  # text that was written as plain binary
        "output": pa.array(["A"]).dictionary_encode(),
        "moment": pa.array([moment], pa.timestamp("us", "UTC")),
        "nanos": pa.array([1], pa.timestamp("ns")),
        "date": pa.array([moment.date()]),
        "time": pa.array([moment.time()]),
        "duration": pa.array([1_500_000], pa.duration("us")),
        "price": pa.array([decimal.Decimal("1.20")]),
        "half": pa.array([0.5], pa.float16()),
        "small": pa.array([7], pa.int8()),
        "image": pa.array([{"bytes": b"\xff\xd8", "path": None}]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "uuid": pa.array([name.bytes], pa.binary(16)),
    }
    pq.write_table(pa.table(columns), tmp_path / "pool.parquet")
    original = {
        "instruction": "Q",
        "output": "A",
        "moment": "2024-05-06T07:08:09+00:00",
        "nanos": "1970-01-01T00:00:00.000000001",
        "date": "2024-05-06",
        "time": "07:08:09",
        "duration": "0:00:01.500000",
        "price": "1.20",
        "half": 0.5,
        "small": 7,
        "image": {"bytes": {"base64": "/9g="}, "path": None},
        "map": [["k", 1]],
        "uuid": "\x00" * 15 + "\x05",
    }
    results = read(tmp_path / "pool.parquet")
    assert results == [PoolRow(Example("Q", "", "A"), original)]
    assert json.loads(json.dumps(original)) == original


def test_moments_in_a_zone_that_is_not_known_here_are_given_in_utc(tmp_path: Path) -> None:
    zone = pa.timestamp("us", "Mars/Base")
    nested = pa.struct([("at", zone), ("all", pa.list_(zone)), ("by", pa.map_(pa.string(), zone))])
    at = datetime.datetime(2024, 5, 6, 7, 8, 9)
    columns = {
        "instruction": ["Q", "R"],
        "output": ["A", "B"],
        "at": pa.array([at, None], pa.timestamp("us")).cast(zone),
        "more": pa.array(
            [{"at": at, "all": [at, None], "by": [("k", at)]}, None],
            pa.struct([(field.name, _utc(field.type)) for field in nested]),
        ).cast(nested),
        "berlin": pa.array([at, None], pa.timestamp("us", "Europe/Berlin")),
    }
    said = "2024-05-06T07:08:09+00:00"
    more = {"at": said, "all": [said, None], "by": [["k", said]]}
    rows = [
        {"instruction": "Q", "output": "A", "at": said, "more": more, "berlin": "2024-05-06T09:08:09+02:00"},
        {"instruction": "R", "output": "B", "at": None, "more": None, "berlin": None},
    ]
    pq.write_table(pa.table(columns), tmp_path / "pool.parquet")
    assert [item.original for item in read(tmp_path / "pool.parquet") if isinstance(item, PoolRow)] == rows
    folder = save_dataset(tmp_path / "saved", rows)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
        with pa.ipc.new_stream(file, pa.table(columns).schema) as stream:
            stream.write_table(pa.table(columns))
    assert [item.original for item in read(folder) if isinstance(item, PoolRow)] == rows


def _utc(kind: Any) -> Any:
    utc = pa.timestamp("us", "UTC")
    return pa.list_(utc) if pa.types.is_list(kind) else pa.map_(pa.string(), utc) if pa.types.is_map(kind) else utc


def test_conversations_in_parquet(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}, {"from": "human", "value": "R"}]
    rows: list[dict[str, Any]] = [
        {"id": "a", "conversations": turns},
        {"id": "b", "conversations": None},
        {"id": "c", "conversations": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool.parquet")
    assert read(tmp_path / "pool.parquet") == [
        PoolRow(Example("Q", "", "A"), rows[0], dropped_turns=1),
        Reject(RejectReason.MISSING_INSTRUCTION, "'conversations' is null"),
        Reject(RejectReason.MISSING_INSTRUCTION, "'conversations' is empty"),
    ]


@pytest.mark.parametrize(
    ("column", "error"),
    [
        (pa.array([b"a", b"a\xff", b"c"], pa.binary()).view(pa.string()), "'utf-8' codec can't decode byte 0xff"),
        (pa.array([0, 4_000_000, 0], pa.int32()).view(pa.date32()), "date value out of range"),
    ],
)
def test_a_value_that_can_not_be_decoded_costs_only_its_row(tmp_path: Path, column: Any, error: str) -> None:
    table = pa.table({"instruction": ["Q"] * 3, "output": ["A"] * 3, "other": column})
    pq.write_table(table, tmp_path / "pool.parquet")
    first, second, third = read(tmp_path / "pool.parquet")
    assert isinstance(first, PoolRow) and isinstance(second, Reject) and isinstance(third, PoolRow)
    assert second.reason is RejectReason.UNDECODABLE
    assert second.detail.startswith(f"a value can't be decoded: {error}")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_table_rows_above_the_size_limit(tmp_path: Path, form: str) -> None:
    rows = [ROWS[0], ROWS[0] | {"output": "é" * 500}, ROWS[2]]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool.parquet")
    else:
        save_dataset(tmp_path / "pool.arrow", rows)
    size = len(json.dumps(rows[1], ensure_ascii=False).encode())
    reject = Reject(RejectReason.TOO_LARGE, f"the row has more than max_row_bytes={size - 1} bytes")
    assert read(tmp_path / f"pool.{form}", max_row_bytes=size) == [pool_row(rows[row]) for row in range(3)]
    assert read(tmp_path / f"pool.{form}", max_row_bytes=size - 1) == [
        pool_row(rows[0]),
        reject,
        pool_row(ROWS[2]),
    ]


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.999])
def test_damaged_tables_are_named(tmp_path: Path, keep: float) -> None:
    rows = [ROWS[0] | {"id": i} for i in range(3000)]
    parquet = tmp_path / "pool.parquet"
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    arrow = save_dataset(tmp_path / "saved", rows) / "data-00000-of-00001.arrow"
    for file, address in [(parquet, parquet), (arrow, arrow.parent)]:
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(InputError, match=f"'{file}' can't be read as"):
            read(address)


def test_a_damaged_page_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.Table.from_pylist([ROWS[0] | {"id": str(i)} for i in range(3000)]), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[200:300] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"'{path}' can't be read as Parquet"):
        read(path)


def test_a_damaged_stream_neither_crashes_nor_ends_early(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "saved", ROWS)
    file = folder / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes() * 2)  # pyarrow stops after the first of two streams
    with pytest.raises(InputError, match="the stream ends before the file does"):
        read(folder)
    offsets = pa.py_buffer(struct.pack("<3i", 0, 2**30, 1))  # pyarrow would read text a gigabyte behind its buffer
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"Q")])
    batch = pa.RecordBatch.from_arrays([texts], ["instruction"])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    with pytest.raises(InputError, match=f"'{file}' can't be read as Arrow: Offset invariant failure"):
        read(folder)


def test_an_arrow_file_and_a_parquet_file_under_any_name(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    for name in ("pool.arrow", "pool.feather", "pool"):
        with pa.OSFile(str(tmp_path / name), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        assert read(tmp_path / name) == USED
    pq.write_table(table, tmp_path / "pool")
    assert read(tmp_path / "pool") == USED
    data = (tmp_path / "pool.arrow").read_bytes()
    with pytest.raises(InputError, match=f"'{tmp_path}/cut.arrow' can't be read as Arrow"):
        read(written(tmp_path / "cut.arrow", data[: len(data) // 2]))


# CSV


def csv_bytes(rows: list[dict[str, Any]], **options: Any) -> bytes:
    return pd.DataFrame(rows).to_csv(index=False, **options).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pool.csv", csv_bytes(ROWS)),
        ("pool.CSV", codecs.BOM_UTF8 + csv_bytes(ROWS, lineterminator="\r\n")),
        ("pool.csv.gz", csv_bytes(ROWS, quoting=1)),
        ("pool.csv", b"\n" + csv_bytes(ROWS).rstrip()),
        ("pool.tsv", csv_bytes(ROWS, sep="\t")),
        ("pool.csv", csv_bytes(ROWS, sep=";")),
        ("pool.csv", csv_bytes(ROWS, sep="\t")),
        ("pool.tsv", csv_bytes(ROWS, sep="|")),
        ("pool.csv", csv_bytes(ROWS).decode().encode("utf-16")),
    ],
)
def test_csv_pools(tmp_path: Path, name: str, data: bytes) -> None:
    path = written(tmp_path / name, data)
    assert find_source(str(path)) == source_of(path, (str(path), "csv"))
    assert read(path) == USED


def test_csv_rows_with_faults_cost_only_themselves_and_name_their_lines(tmp_path: Path) -> None:
    good = 'Say 5" twice,"one\n""two"", three"\n'
    text = f'prompt,completion\n{good}\none,two,three\n{"x" * 3000}\n"{"long," * 400}\n{"y" * 400_000}",A\n{good}'
    path = written(tmp_path / "pool.csv", text.encode() + b"caf\xe9,A\n,A\n" + good.encode())
    found = numbered(path, max_row_bytes=1000)
    used = Example('Say 5" twice', "", 'one\n"two", three')
    assert [item.example if isinstance(item, PoolRow) else (at.line, item.reason) for at, item in found] == [
        used,
        (5, RejectReason.UNDECODABLE),
        (6, RejectReason.TOO_LARGE),
        (7, RejectReason.TOO_LARGE),
        used,
        (11, RejectReason.UNDECODABLE),
        (12, RejectReason.MISSING_INSTRUCTION),
        used,
    ]
    assert isinstance(found[1][1], Reject) and found[1][1].detail == "the row has 3 cells, wanted 2 as in the header"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('prompt,completion\nQ,A\nR,"B\nS,C\n', "line 3, has malformed quoting"),  # the end is reached inside of them
        ('prompt,completion\nQ,A\nR,"B\nS,"C"\n', "line 3, has malformed quoting"),
        ("prompt,prompt\nQ,A\n", "names 'prompt' more than once"),
    ],
)
def test_a_csv_file_whose_rows_can_not_be_separated_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(written(tmp_path / "pool.csv", text.encode()))


# Properties

TEXT = st.none() | st.sampled_from(["", " ", "a", "]", '"', "\\", "\\\\", '\\"', "{[,", "\u2028", "é\n"]) | st.text()
UNIFORM_ROWS = st.lists(
    st.fixed_dictionaries({"instruction": TEXT, "input": TEXT, "output": TEXT}), min_size=1, max_size=5
)
ANY_ROWS = st.lists(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["instruction", "output", "messages"]), inner)
        ),
        max_leaves=8,
    ),
    min_size=2,  # a single line may be an array of rows, or an object around them
    max_size=6,
)
per_test_folder = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@per_test_folder
@given(rows=ANY_ROWS, ensure_ascii=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_json_formats_agree_on_every_row(
    tmp_path: Path, rows: list[Any], ensure_ascii: bool, indent: int | None
) -> None:
    line_bytes = lines(rows, ensure_ascii=ensure_ascii)
    array_bytes = array(rows, ensure_ascii=ensure_ascii, indent=indent)
    first = read(written(tmp_path / "plain.jsonl", line_bytes))
    assert len(first) == len(rows)
    for name, data in {
        "crlf.jsonl": line_bytes.replace(b"\n", b"\r\n"),
        "bom.jsonl": codecs.BOM_UTF8 + line_bytes,
        "plain.ndjson.gz": line_bytes,
        "no_end.jsonl": line_bytes.removesuffix(b"\n"),
        "plain.json": array_bytes,
        "bom.json": codecs.BOM_UTF8 + array_bytes,
        "crlf.json": array_bytes.replace(b"\n", b"\r\n"),
        "plain.json.gz": array_bytes,
    }.items():
        assert read(written(tmp_path / name, data)) == first, name


@per_test_folder
@given(rows=UNIFORM_ROWS)
def test_tables_agree_with_json(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    expected = read(written(tmp_path / "pool.json", array(rows)))
    fields = pa.schema([(name, pa.string()) for name in ("instruction", "input", "output")])
    pq.write_table(pa.Table.from_pylist(rows, fields), tmp_path / "pool.parquet", row_group_size=2)
    assert read(tmp_path / "pool.parquet") == expected
    table = io.StringIO()
    sheet = csv.DictWriter(table, ("instruction", "input", "output"), quoting=csv.QUOTE_ALL)
    sheet.writeheader()
    sheet.writerows([{name: text or "" for name, text in row.items()} for row in rows])
    texts = [item.example if isinstance(item, PoolRow) else item.reason for item in expected]
    found = read(written(tmp_path / "pool.csv", table.getvalue().encode()))
    assert [item.example if isinstance(item, PoolRow) else item.reason for item in found] == texts


@per_test_folder
@given(
    data=st.binary(max_size=60) | st.text('[]{}",: \\n1eu\ud800', max_size=40).map(lambda t: t.encode(errors="replace"))
)
def test_no_bytes_raise_anything_but_an_explanation(tmp_path: Path, data: bytes) -> None:
    for name in ("pool.json", "pool.jsonl"):
        path = written(tmp_path / name, b"[" + data)
        try:
            read(path, max_row_bytes=10)
        except InputError as error:
            assert str(path) in str(error)


def test_a_reject_of_a_format_with_lines_names_its_line_and_blank_ones_are_no_rows(tmp_path: Path) -> None:
    data = b"\n  \n" + lines(ROWS[:1]) + b"\n" + lines([{"instruction": "Q"}, 5]) + NOT_JSON + b"\n"
    rejects = [at for at, item in numbered(written(tmp_path / "pool.jsonl", data)) if isinstance(item, Reject)]
    assert [(at.row, at.line, str(at)) for at in rejects] == [
        (1, 5, "row 1 (line 5)"),
        (2, 6, "row 2 (line 6)"),
        (3, 7, "row 3 (line 7)"),
    ]
    ((position, reject),) = numbered(written(tmp_path / "pool.json", array([5])))
    assert isinstance(reject, Reject) and (position.line, str(position)) == (None, "row 0")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13])
def test_rows_do_not_depend_on_where_pieces_end(size: int) -> None:
    rows = [*ROWS, "\\", "\\\\", '\\"', {"a": ["\\"]}]

    def pieces(data: bytes) -> list[bytes]:
        return [data[start : start + size] for start in range(0, len(data), size)]

    assert list(read_lines(pieces(lines(rows, b"\r\n")), LIMIT)) == list(enumerate(rows, start=1))
    assert list(read_array(pieces(array(rows)), LIMIT, address="pool.json")) == rows


# Memory


def test_large_pools_are_read_in_little_memory(tmp_path: Path) -> None:
    row = json.dumps(ROWS[0] | {"output": 'word \\ "quoted" ' * 1000}).encode()
    giant = b'{"instruction": "' + b"x" * 20_000_000 + b'"}'  # a row that must never be in memory
    count = 40_000_000 // len(row)
    shapes = {
        "pool.jsonl": (b"", b"\n", b"", 0),
        "pool.json": (b"[", b",", b"]", 0),
        "wrapped.json": (b'{"version": 1, "data": [', b",", b'], "more": {}}', 0),
        "objects.json": (b'{\n"instruction": "Q",\n"output": "A"\n}\n', b"\n\n", b"", 1),
    }
    for name, (start, between, end, more) in shapes.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            for _ in range(count):
                file.write(row + between)
            file.write(giant + between + row + end)
        source = find_source(str(tmp_path / name))
        tracemalloc.start()
        used = sum(isinstance(result, PoolRow) for _, result in read_pool(source, max_row_bytes=100_000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (used, peak < 10_000_000) == (count + 1 + more, True), (name, peak)


def content_read(source: PoolSource) -> ContentDigest:
    content = ContentDigest()
    for _ in read_pool(source, max_row_bytes=LIMIT, content=content):
        pass
    return content


def test_a_pool_is_hashed_while_it_is_read_in_every_format_that_is_read_in_order(tmp_path: Path) -> None:
    for name, data in (("a.json", array(ROWS)), ("a.jsonl", lines(ROWS)), ("b.jsonl.gz", lines(ROWS))):
        written(tmp_path / name, data)
    written(tmp_path / "a.csv", b"instruction,output\nAdd.,3\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    save_dataset(tmp_path / "saved", ROWS, files=2)
    for path in tmp_path.iterdir():
        source = find_source(str(path))
        content = content_read(source)
        assert content.is_whole is (source.files[0].format != "parquet"), source
        assert combined_digest(content.files) == source_digest(source) or not content.is_whole
        check_unchanged(source, source_digest(source), content)


def test_a_pool_that_is_not_read_to_its_end_has_no_digest(tmp_path: Path) -> None:
    path = written(tmp_path / "pool.jsonl", lines(ROWS * 10_000))
    content = ContentDigest()
    next(rows := read_pool(find_source(str(path)), max_row_bytes=LIMIT, content=content))
    rows.close()
    assert not content.is_whole


def test_what_was_read_is_compared_and_not_what_lies_there_afterwards(tmp_path: Path) -> None:
    path = written(tmp_path / "pool.jsonl", lines(ROWS))
    source = find_source(str(path))
    content, before = content_read(source), source_digest(source)
    written(path, lines(ROWS[:1]))
    check_unchanged(source, before, content)
    with pytest.raises(InputError, match="was changed while it was read"):
        check_unchanged(source, before)
    with pytest.raises(InputError, match="was changed while it was read"):
        check_unchanged(source, source_digest(source), content)
