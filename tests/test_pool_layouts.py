"""JSON in every layout, compression and encoding, under any name: valid data is read as it is meant."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuggets.errors import InputError, UsageError
from nuggets.examples import PoolRow, Reject
from nuggets.pools.readers.content_digest import ContentDigest, combined_digest
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.readers.json_layout import find_layout
from nuggets.pools.readers.json_object import object_shape
from nuggets.pools.readers.rows import read_pool

ROWS: list[dict[str, Any]] = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": 'Say "hé\\llo" ],[ {}', "input": "", "output": "line\nline 𝄞"},
    {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
ARRAY, INDENTED = json.dumps(ROWS), json.dumps(ROWS, indent=2)
OBJECTS = "\n".join(json.dumps(row, indent=2) for row in ROWS)
LIMIT = 100_000


def read(path: Path, split: str | None = None, limit: int = LIMIT) -> list[PoolRow | Reject]:
    return [item for _, item in read_pool(find_source(str(path), split=split), max_row_bytes=limit)]


def originals(path: Path, split: str | None = None) -> list[object]:
    return [item.original if isinstance(item, PoolRow) else item for item in read(path, split)]


def written(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("name", ["pool.json", "pool.jsonl", "pool.txt", "pool"])
@pytest.mark.parametrize(
    "text",
    [
        LINES,
        ARRAY,
        INDENTED,
        OBJECTS,
        OBJECTS.replace("\n}\n{", "\n}\n\n\n{"),
        "".join(json.dumps(row) for row in ROWS),  # one after the other in one line
        json.dumps({"data": ROWS}),
        json.dumps({"version": "1.0", "license": {"tags": [{"a": 1}]}, "data": ROWS, "count": 3}, indent=1),
        json.dumps({"tags": ["a", "b"], "pairs": [[1, {"x": 2}]], "empty": [], "rows": ROWS}),
        json.dumps({"conversations": ROWS}),  # rows, and not the turns of a conversation
        " \n" * 300_000 + json.dumps({"data": ROWS}),
    ],
)
def test_rows_are_found_in_every_layout_under_any_name(tmp_path: Path, name: str, text: str) -> None:
    path = written(tmp_path / name, text)
    assert originals(path) == ROWS
    source, content = find_source(str(path)), ContentDigest()
    assert len(list(read_pool(source, max_row_bytes=LIMIT, content=content))) == 3
    assert not content.is_whole or combined_digest(content.files) == source_digest(source)
    assert content.is_whole  # so that the file is not read again


def test_a_single_object_is_a_row_and_its_turns_and_instances_are_no_rows(tmp_path: Path) -> None:
    for row in (*ROWS, {"instruction": "Q", "instances": [{"input": "I", "output": "O"}]}):
        for text in (json.dumps(row), json.dumps(row, indent=2), json.dumps(row) + "\n"):
            assert originals(written(tmp_path / "pool.json", text)) == [row]


def test_of_an_object_with_several_lists_one_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "pool.json", json.dumps({"train": ROWS, "info": {}, "test": ROWS[:1]}, indent=1))
    message = f"^'{path}' is one JSON object with lists of objects in 'train', 'test': name the one .* with --split$"
    with pytest.raises(UsageError, match=message):
        find_source(str(path))
    assert originals(path, "train") == ROWS
    assert originals(path, "test") == ROWS[:1]
    with pytest.raises(UsageError, match="^split='dev': .* lists of objects in 'train', 'test'"):
        find_source(str(path), split="dev")


def test_a_second_list_far_behind_the_first_is_found_when_the_object_is_read(tmp_path: Path) -> None:
    many = ", ".join([json.dumps({"instruction": "Q", "output": "x" * 50_000})] * 400)  # 20 MB
    path = written(tmp_path / "pool.json", f'{{"train": [{many}], "test": {ARRAY}}}')
    source = find_source(str(path))
    with pytest.raises(UsageError, match="lists of objects in 'train', 'test': name the one .* with --split$"):
        list(read_pool(source, max_row_bytes=LIMIT))
    assert originals(path, "test") == ROWS


def test_columns_in_one_object_are_refused_with_what_to_do(tmp_path: Path) -> None:
    for columns in ({"0": "Q", "1": "R"}, ["Q", "R"]):
        path = written(tmp_path / "pool.json", json.dumps({"instruction": columns, "output": columns}))
        with pytest.raises(UsageError, match=f"^'{path}' is one JSON object of columns: .* orient='records'"):
            find_source(str(path))


def test_a_split_that_no_file_and_no_object_has_is_refused(tmp_path: Path) -> None:
    for name, text in (("pool.json", ARRAY), ("pool.jsonl", LINES), ("pool.csv", "instruction,output\nQ,A\n")):
        path = written(tmp_path / name, text)
        with pytest.raises(UsageError, match=f"^split='dev': '{path}' has no splits; leave split out$"):
            find_source(str(path), split="dev")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_layouts_do_not_depend_on_where_pieces_end(size: int) -> None:
    rows = json.dumps({'a\\"': "x\\", "da\u00e9": ROWS, 'q"': "{[", "n": [1, {"b": 2}], "m": [{"c": 1}]}).encode()
    pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    shape = object_shape(iter([*pieces, b" \n", b"{"]))
    assert (shape.texts, shape.following) == ({'a\\"', 'q"'}, b"{")
    assert [(item.key, rows[item.start : item.start + 2], item.fields) for item in shape.lists] == [
        ("da\u00e9", b"[{", {"instruction", "input", "output"}),
        ("m", b"[{", {"c"}),
    ]
    wrapped = json.dumps({"v": 1, "data": ROWS}, indent=1).encode()
    pieces = [wrapped[start : start + size] for start in range(0, len(wrapped), size)]
    layout = find_layout(iter(pieces), rows_key=None, address="a")
    assert (layout.form, wrapped[layout.start : layout.start + 1]) == ("list", b"[")


@pytest.mark.parametrize("broken", ['{"instruction": "Ad', '{"instruction": "Add.", ', "{'a': 1}", '{"a": 1} x', "x"])
def test_a_first_line_with_a_fault_costs_only_itself(tmp_path: Path, broken: str) -> None:
    first, *others = read(written(tmp_path / "pool.json", f"{broken}\n{LINES}"))
    assert isinstance(first, Reject) and first.reason == "undecodable"
    assert [item.original for item in others if isinstance(item, PoolRow)] == ROWS


def test_a_first_row_above_the_size_limit_costs_only_itself(tmp_path: Path) -> None:
    long = json.dumps({"instruction": "Q", "output": "x" * 3_000_000})
    for text in (long + "\n" + LINES, long.replace(" ", "\n") + "\n" + OBJECTS):
        first, *others = read(written(tmp_path / "pool.json", text))
        assert isinstance(first, Reject) and first.reason == "too_large"
        assert [item.original for item in others if isinstance(item, PoolRow)] == ROWS


@pytest.mark.parametrize("text", [OBJECTS, json.dumps({"data": ROWS}, indent=1)])
def test_objects_that_are_cut_off_keep_the_rows_before(tmp_path: Path, text: str) -> None:
    for end in range(text.index("}") + 2, len(text) - 6, 11):
        items = read(written(tmp_path / "pool.json", text[:end]))
        assert items[0] == read(written(tmp_path / "one.json", json.dumps(ROWS[0])))[0]
        assert all(isinstance(item, PoolRow) for item in items[:-1])
        assert isinstance(items[-1], PoolRow) or items[-1].reason == "undecodable"


def test_a_fault_in_an_object_over_several_lines_names_its_row(tmp_path: Path) -> None:
    path = written(tmp_path / "pool.json", OBJECTS.replace('"messages":', '"messages"'))
    with pytest.raises(InputError, match=f"'{path}', row 2 is not JSON: Expecting ':' delimiter near"):
        read(path)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compression_is_recognised_by_content(tmp_path: Path, ending: str) -> None:
    compress = COMPRESSIONS[ending]
    for name, text in ((f"a.jsonl.{ending}", LINES), ("b.json", OBJECTS), ("c", json.dumps({"data": ROWS}))):
        path = written(tmp_path / name, compress(text.encode()))
        assert originals(path) == ROWS
        source, content = find_source(str(path)), ContentDigest()
        assert len(list(read_pool(source, max_row_bytes=LIMIT, content=content))) == 3
        assert content.is_whole and combined_digest(content.files) == source_digest(source)
    in_two = compress(LINES[:30].encode()) + compress(LINES[30:].encode())
    assert originals(written(tmp_path / "d.jsonl", in_two)) == ROWS
    csv = written(tmp_path / f"e.csv.{ending}", compress(b"prompt;completion\nQ;A\n"))
    assert originals(csv) == [{"prompt": "Q", "completion": "A"}]


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_a_compressed_file_that_is_cut_off_is_damaged(tmp_path: Path, ending: str) -> None:
    rows = [row | {"id": str(number) * 9} for number in range(5000) for row in ROWS]
    data = COMPRESSIONS[ending]("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = written(tmp_path / f"pool.jsonl.{ending}", data[: len(data) // 2])
    with pytest.raises(InputError, match=f"'{path}' is damaged "):
        read(path)


def test_a_name_that_promises_a_compression_does_not_matter(tmp_path: Path) -> None:
    assert originals(written(tmp_path / "pool.jsonl.gz", LINES)) == ROWS
    assert originals(written(tmp_path / "pool.json.zst", gzip.compress(ARRAY.encode()))) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    for text in (LINES, INDENTED, json.dumps({"data": ROWS}, ensure_ascii=False)):
        assert originals(written(tmp_path / "pool.json", text.encode(encoding))) == ROWS
    for order, mark in (("le", b"\xff\xfe"), ("be", b"\xfe\xff")):
        assert originals(written(tmp_path / "pool.json", mark + LINES.encode(f"utf-16-{order}"))) == ROWS


def test_damaged_utf_16_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "pool.jsonl", LINES.encode("utf-16")[:-1])
    with pytest.raises(InputError, match=f"'{path}' is damaged UTF-16"):
        read(path)


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(['"', "\\", "[{", "}]", '\\"', ","]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
OBJECT_LISTS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, min_size=1, max_size=3), min_size=2, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=OBJECT_LISTS,
    before=st.dictionaries(st.text("abc", max_size=2), st.integers() | st.text()),
    indent=st.none() | st.just(1),
)
def test_all_layouts_hold_the_same_rows(tmp_path: Path, rows: list[Any], before: dict[str, Any], indent: Any) -> None:
    expected = read(written(tmp_path / "lines.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    shapes = {
        "array.json": json.dumps(rows, indent=indent),
        "objects.json": "\n".join(json.dumps(row, indent=indent) for row in rows),
        "wrapped.json": json.dumps({**before, "rows": rows}, indent=indent),
    }
    for name, text in shapes.items():
        assert read(written(tmp_path / name, text)) == expected, name
