"""Ingest: from a file to shards of distinct, usable examples, with an account of everything else."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nuggets.pools.distinct_rows
from nuggets.anchors.anchor_set import anchors_from_file
from nuggets.errors import InputError, StoreError
from nuggets.examples import RECOGNISED, Example, FieldNames, example_id
from nuggets.pools.ingest import POOL_VERSION, described_rejects, ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.shards import Candidate, Pool, read_candidates, read_ids, read_pool_record, read_records
from nuggets.scores.golden import eligible_cells
from nuggets.store.addresses import digest
from nuggets.store.store import Store

GOOD: list[dict[str, Any]] = [
    {"instruction": "Add.", "input": "1 2", "output": "3", "source": {"page": 7, "tags": ["a", None]}},
    {"instruction": "Grüße 𝄞.", "output": 'line\nline "q" \\ ', "input": "", "score": 0.5},
    {"instruction": "Count.", "input": "", "output": "1"},
    {
        "conversations": [
            {"from": "human", "value": "Name a colour."},
            {"from": "gpt", "value": "Red."},
            {"from": "human", "value": "Another."},
            {"from": "gpt", "value": "Blue."},
        ],
        "id": "x1",
    },
    {"instruction": "Add.", "context": "2 2", "response": "4"},
]
EXAMPLES = [
    Example("Add.", "1 2", "3"),
    Example("Grüße 𝄞.", "", 'line\nline "q" \\ '),
    Example("Count.", "", "1"),
    Example("Name a colour.", "", "Red."),
    Example("Add.", "2 2", "4"),
]
BY_ID = sorted(range(5), key=lambda number: example_id(EXAMPLES[number]))  # the order of shards
# Row 2 repeats row 0 with other extra fields, rows 3 and 6 can't be used, row 7 repeats row 4 (GOOD[2]).
MIXED = [GOOD[0], GOOD[1], {**GOOD[0], "source": "later"}, "just text", GOOD[2], GOOD[3],
         {"instruction": "Empty.", "output": ""}, {**GOOD[2]}, GOOD[4]]  # fmt: skip
ROWS_OF_EXAMPLES = (0, 1, 4, 5, 8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def ingested(
    store: Store,
    path: Path,
    *,
    shard_size: int = 2,
    share: float = 0.5,
    row_bytes: int = 10_000,
    memory: int = 1 << 20,
    names: FieldNames = RECOGNISED,
) -> Pool:
    source = find_source(str(path))
    return ingest_pool(
        store,
        source,
        source_digest(source),
        shard_size=shard_size,
        max_row_bytes=row_bytes,
        max_rejected_share=share,
        memory=memory,
        names=names,
    )


def contents(store: Store) -> dict[str, tuple[bytes, int]]:
    """Every object with its time of change."""
    return {path: (store.read(path), Path(store.url, path).stat().st_mtime_ns) for path in store.list("")}


def strict_json(text: str | bytes) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_pool_is_counted_whole(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", MIXED)
    pool = ingested(store, path)
    folder = f"pools/{pool.id}"
    assert pool == Pool(
        id=pool.id,
        source=str(path),
        rows=9,
        examples=5,
        duplicates=2,
        dropped_turns=2,
        rejects={"not_an_object": 1, "missing_output": 1},
        rejects_path=f"{folder}/rejects.jsonl",
        shards=tuple(f"{folder}/shard-0000{number}.parquet" for number in range(3)),
        shard_examples=(2, 2, 1),
        first_rejects={
            "not_an_object": "row 3 (line 4): the row is a text ('just text'), wanted an object with fields",
            "missing_output": "row 6 (line 7): 'output' is empty",
        },
    )
    assert store.list("") == [f"{folder}/pool.json", f"{folder}/rejects.jsonl", *pool.shards]
    assert read_pool_record(store, pool.id) == pool


def test_shards_are_in_the_order_of_ids_and_of_equal_examples_the_first_row_is_kept(store, tmp_path):
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", MIXED))
    expected = [Candidate(example_id(EXAMPLES[number]), ROWS_OF_EXAMPLES[number], EXAMPLES[number]) for number in BY_ID]
    assert [candidate.id for candidate in expected] == sorted(candidate.id for candidate in expected)
    assert [candidate for shard in pool.shards for candidate in read_candidates(store, shard)] == expected
    for number, shard in enumerate(pool.shards):
        ids, rows = read_ids(store, shard)
        of_shard = expected[2 * number : 2 * number + 2]
        assert (ids.type, ids.to_pylist()) == (pa.string(), [candidate.id for candidate in of_shard])
        assert (rows.dtype, rows.tolist()) == (np.int64, [candidate.row for candidate in of_shard])


def test_original_rows_keep_extra_fields_order_and_all_characters(store, tmp_path):
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", MIXED))
    found = list(read_records(store, pool.shards))
    assert [original for _, original in found] == [GOOD[number] for number in BY_ID]
    assert [list(original) for _, original in found] == [list(GOOD[number]) for number in BY_ID]
    assert [candidate.example for candidate, _ in found] == [EXAMPLES[number] for number in BY_ID]


def test_rejects_are_listed_with_row_reason_and_what_was_found(store, tmp_path):
    long = {"instruction": "Long.", "output": "x" * 1000}
    path = jsonl(tmp_path / "pool.jsonl", [*MIXED, long, {"instruction": 5, "output": "x"}])
    with path.open("ab") as file:
        file.write(b'{"instruction": "cut\n')
    pool = ingested(store, path, row_bytes=500)
    lines = [strict_json(line) for line in store.read(pool.rejects_path).splitlines()]
    assert [(line["row"], line["reason"]) for line in lines] == [
        (3, "not_an_object"),
        (6, "missing_output"),
        (9, "too_large"),
        (10, "not_text"),
        (11, "undecodable"),
    ]
    assert [line["line"] for line in lines] == [4, 7, 10, 11, 12]
    assert [line["detail"] for line in lines[:4]] == [
        "the row is a text ('just text'), wanted an object with fields",
        "'output' is empty",
        "the row has more than max_row_bytes=500 bytes",
        "'instruction' is a number (5), wanted text",
    ]
    assert pool.rejects == {
        "not_an_object": 1,
        "undecodable": 1,
        "missing_output": 1,
        "not_text": 1,
        "too_large": 1,
    }


@pytest.mark.parametrize(
    ("shard_size", "sizes"), [(1, (1, 1, 1, 1, 1)), (2, (2, 2, 1)), (3, (3, 2)), (5, (5,)), (512, (5,))]
)
def test_shards_have_the_asked_size_but_for_the_last(store, tmp_path, shard_size, sizes):
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", MIXED), shard_size=shard_size)
    assert pool.shard_examples == sizes
    assert tuple(len(read_candidates(store, shard)) for shard in pool.shards) == sizes
    found = [candidate.example for shard in pool.shards for candidate in read_candidates(store, shard)]
    assert found == [EXAMPLES[number] for number in BY_ID]


def test_rows_beyond_memory_give_the_same_bytes_and_leave_no_files(store, tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(nuggets.pools.distinct_rows, "_BATCH_ROWS", 3)
    # Far more than memory, all of it three times, the ids of 400 examples in most of the buckets.
    rows = [{"instruction": f"Count to {number % 400}.", "output": "x" * 50, "at": number} for number in range(1200)]
    path = jsonl(tmp_path / "pool.jsonl", [*MIXED, *rows])
    other = Store(str(tmp_path / "other"))
    pool = ingested(store, path, shard_size=64)
    assert ingested(other, path, shard_size=64, memory=1000) == pool
    assert (pool.rows, pool.examples, pool.duplicates) == (1209, 405, 802)
    assert {name: other.read(name) for name in other.list("")} == {name: store.read(name) for name in store.list("")}
    assert list(folder.iterdir()) == []
    found = [row for _, row in read_records(other, pool.shards) if "at" in row]
    assert sorted(row["at"] for row in found) == list(range(400))


PEAK = """
import resource, sys
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.store.store import Store

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

source = find_source(sys.argv[1])
content = source_digest(source)
before = peak()
asked = {"shard_size": 4, "max_row_bytes": 1_000_000, "max_rejected_share": 0.0, "memory": 16 << 20}
print(ingest_pool(Store(sys.argv[2]), source, content, **asked).examples, peak() - before)
"""


@pytest.mark.parametrize(("rows", "length", "examples"), [(500, 240_000, 500), (40_000, 2000, 3)])
def test_long_rows_and_repeats_keep_to_the_memory_that_they_may_take(tmp_path, rows, length, examples):
    path = tmp_path / "pool.jsonl"  # 120 MB and 80 MB, and 16 MiB are allowed
    with path.open("w") as file:
        for number in range(rows):
            file.write(json.dumps({"instruction": f"Say {number % examples}.", "output": "x" * length}) + "\n")
    command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "store")]
    found, mib = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert found == examples
    assert mib < 110  # 200 and 470 where rows are only counted, and repeats kept


def test_the_order_of_the_source_does_not_matter_for_the_ids_of_shards(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", MIXED)
    pools = [ingested(store, path), ingested(store, jsonl(tmp_path / "back.jsonl", MIXED[::-1]))]
    assert pools[0].id != pools[1].id
    ids = [[read_ids(store, shard)[0].to_pylist() for shard in pool.shards] for pool in pools]
    assert ids[0] == ids[1]
    assert [read_ids(store, shard)[1].tolist() for shard in pools[1].shards] == [
        [(6, 7, 1, 3, 0)[number] for number in BY_ID[start : start + 2]] for start in (0, 2, 4)
    ]


def test_a_disk_without_room_for_temporary_files_is_an_error_that_names_tmpdir(store, tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    rows = [{"instruction": f"Count to {number}.", "output": "x" * 50} for number in range(300)]
    path = jsonl(tmp_path / "pool.jsonl", rows)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets us mount no small disk")
    try:
        with pytest.raises(StoreError, match=f"^no space left for temporary files in {folder}: .* set TMPDIR "):
            ingested(store, path, memory=1000)
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert store.list("") == []
    assert ingested(store, path).examples == 300


def test_the_same_content_at_another_path_is_taken_from_the_store(store, tmp_path):
    first = ingested(store, jsonl(tmp_path / "pool.jsonl", MIXED))
    before = contents(store)
    second = ingested(store, jsonl(tmp_path / "elsewhere/copy.jsonl", MIXED))
    assert contents(store) == before
    assert second.source == f"{tmp_path}/elsewhere/copy.jsonl"
    assert (second.id, second.shards) == (first.id, first.shards)


def test_other_content_or_another_shard_size_is_another_pool(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", MIXED)
    pools = [ingested(store, path), ingested(store, path, shard_size=3), ingested(store, path, row_bytes=9_999)]
    pools.append(ingested(store, jsonl(path, MIXED[:-1])))
    assert len({pool.id for pool in pools}) == 4


def test_an_ingest_that_was_cut_short_is_done_again(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", MIXED)
    pool = ingested(store, path)
    before = {name: content for name, (content, _) in contents(store).items()}
    store.remove(f"pools/{pool.id}/pool.json")  # what is written last
    store.remove(pool.shards[1])
    assert ingested(store, path) == pool
    assert {name: content for name, (content, _) in contents(store).items()} == before


def test_a_file_that_changes_before_it_is_read_is_refused_and_leaves_nothing(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", MIXED)
    source = find_source(str(path))
    before = source_digest(source)
    jsonl(path, MIXED[1:])
    asked = {"shard_size": 2, "max_row_bytes": 10_000, "max_rejected_share": 0.5}
    with pytest.raises(InputError, match=f"^'{path}' was changed while it was read .* run again$"):
        ingest_pool(store, source, before, **asked)
    assert store.list("") == []
    jsonl(path, MIXED)
    pool = ingest_pool(store, source, before, **asked)
    assert [candidate.id for shard in pool.shards for candidate in read_candidates(store, shard)] == [
        example_id(EXAMPLES[number]) for number in BY_ID
    ]


def test_too_many_unusable_rows_are_refused_after_the_rejects_are_written_each_time(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", [*GOOD[:2], "a", "b", {"output": "c"}])
    for _ in range(2):
        with pytest.raises(InputError) as refused:
            ingested(store, path, share=0.5)
        (rejects,) = (name for name in store.list("") if name.endswith("rejects.jsonl"))
        assert str(refused.value) == (
            f"3 of 5 rows of pool '{path}' can't be used (not_an_object 2, unknown_fields 1; the first "
            "not_an_object is row 2 (line 3): the row is a text ('a'), wanted an object with fields), more than "
            "max_rejected_share=0.5 allows: make each row an object with fields, name the fields with "
            "--instruction-field, --input-field and --output-field, or raise the share; all of them are in "
            f"{store.url}/{rejects}"
        )
        assert len(store.read(rejects).splitlines()) == 3
    assert ingested(store, path, share=0.6).examples == 2


def test_exactly_the_allowed_share_may_be_unusable(store, tmp_path):
    assert ingested(store, jsonl(tmp_path / "pool.jsonl", [GOOD[0], "a"]), share=0.5).examples == 1
    with pytest.raises(InputError):
        ingested(store, jsonl(tmp_path / "pool.jsonl", [GOOD[0], "a"]), share=0.0)


def test_system_messages_are_counted_apart_from_later_turns(store, tmp_path):
    turns = [("system", "Be kind."), ("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", [row] * 3))
    assert (pool.rows, pool.dropped_turns, pool.system_messages) == (3, 6, 3)


def test_duplicates_are_not_held_against_a_pool(store, tmp_path):
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", [GOOD[0]] * 20), share=0.0)
    assert (pool.rows, pool.examples, pool.duplicates, pool.rejects) == (20, 1, 19, {})


def test_a_pool_without_a_usable_row_is_refused_whatever_share_is_allowed(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", ["a", {"instruction": "x"}])
    with pytest.raises(InputError) as refused:
        ingested(store, path, share=1.0)
    (rejects,) = (name for name in store.list("") if name.endswith("rejects.jsonl"))
    assert str(refused.value) == (
        f"2 of 2 rows of pool '{path}' can't be used (not_an_object 1, unknown_fields 1; the first not_an_object is "
        "row 0 (line 1): the row is a text ('a'), wanted an object with fields): make each row an object with fields, "
        "name the fields with --instruction-field, --input-field and --output-field; all of them are in "
        f"{store.url}/{rejects}"
    )
    assert len(store.read(rejects).splitlines()) == 2


def test_the_error_for_misspelt_fields_names_those_of_the_rows_and_those_wanted(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", [{"instrution": f"Count to {number}.", "ouput": "1"} for number in range(9)])
    found = (
        "the first is row 0 (line 1): no 'instruction', 'prompt', 'question', 'query', 'conversations' or 'messages'; "
        "the row's fields: 'instrution', 'ouput'"
    )
    with pytest.raises(InputError) as refused:
        ingested(store, path)
    assert f"9 of 9 rows of pool '{path}' can't be used (unknown_fields 9; {found}): name the fields with " in str(
        refused.value
    )
    pool = ingested(store, path, names=FieldNames("instrution", None, "ouput"))
    assert (pool.examples, pool.rejects, described_rejects(store, pool)) == (9, {}, "0 rejected")
    assert pool.first_rejects == {}


def test_rejects_are_described_for_the_log(store, tmp_path):
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", [*MIXED, "more text"]))
    assert described_rejects(store, pool) == (
        "3 rejected (not_an_object 2, missing_output 1; the first not_an_object is row 3 (line 4): the row is a text "
        f"('just text'), wanted an object with fields; see {store.url}/{pool.rejects_path})"
    )


def test_other_fields_are_another_pool_and_without_any_the_address_is_what_it_was(store, tmp_path):
    rows = [{"instruction": f"Count to {number}.", "output": "1", "better": "one"} for number in range(3)]
    path = jsonl(tmp_path / "pool.jsonl", rows)
    pool, other = ingested(store, path), ingested(store, path, names=FieldNames(output="better"))
    assert {original["better"] for _, original in read_records(store, other.shards)} == {"one"}
    outputs = [
        {item.example.output for shard in of.shards for item in read_candidates(store, shard)} for of in (pool, other)
    ]
    assert outputs == [{"1"}, {"one"}]
    named = {"version": POOL_VERSION, "formats": ["json"], "rows_key": None, "shard_size": 2, "max_row_bytes": 10_000}
    assert pool.id == digest({**named, "source": source_digest(find_source(str(path)))})


def test_examples_that_differ_in_surrounding_white_space_are_one(store, tmp_path):
    rows = [
        {"instruction": "Name the capital of France.", "input": "\n", "output": "Paris.\n", "extra": 1},
        {"instruction": "Name the capital of France.", "input": "", "output": "Paris."},
        {"instruction": "\tName the capital of France. ", "input": "", "output": "  Paris."},
        {"instruction": "Name the  capital of France.", "input": "", "output": "Paris."},
    ]
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", rows), shard_size=10)
    assert (pool.rows, pool.examples, pool.duplicates) == (4, 2, 2)
    records = {candidate.row: (candidate, original) for candidate, original in read_records(store, pool.shards)}
    assert {row: original for row, (_, original) in records.items()} == {0: rows[0], 3: rows[3]}
    assert records[0][0].example == Example("Name the capital of France.", "\n", "Paris.\n")
    # Stripped texts keep the address that they have always had.
    plain = json.dumps(["Name the capital of France.", "", "Paris."])
    assert records[0][0].id == hashlib.sha256(plain.encode()).hexdigest()[:32]


def test_an_anchor_that_differs_in_white_space_is_the_candidates_own(store, tmp_path):
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", [{"instruction": "Count to 1.", "output": "1\n"}]))
    anchor_file = find_source(str(jsonl(tmp_path / "anchors.jsonl", [{"instruction": " Count to 1.", "output": "1"}])))
    (anchor,) = anchors_from_file(anchor_file, max_row_bytes=1000)
    (candidate,) = read_candidates(store, pool.shards[0])
    assert candidate.id == anchor.id and candidate.example != anchor.example
    ids, _ = read_ids(store, pool.shards[0])
    assert not eligible_cells(ids, [anchor.id], keep_own_cell=False).any()


def test_a_pool_without_rows_is_refused(store, tmp_path):
    path = tmp_path / "pool.json"
    path.write_text("[]")
    with pytest.raises(InputError, match=f"^pool '{path}' has no rows: give a file with at least one example$"):
        ingested(store, path)


def test_nan_and_infinity_in_other_columns_become_null(store, tmp_path):
    path = tmp_path / "pool.parquet"
    nan, infinity = float("nan"), float("inf")
    rows = [
        {"instruction": "Add.", "output": "3", "score": nan, "more": [1.0, infinity], "deep": {"x": -infinity}},
        {"instruction": "Count.", "output": "1", "score": 0.25, "more": [], "deep": {"x": 1.0}},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    pool = ingested(store, path)
    expected = [
        {"instruction": "Add.", "output": "3", "score": None, "more": [1.0, None], "deep": {"x": None}},
        {"instruction": "Count.", "output": "1", "score": 0.25, "more": [], "deep": {"x": 1.0}},
    ]
    expected.sort(key=lambda row: example_id(Example(row["instruction"], "", row["output"])))
    assert [original for _, original in read_records(store, pool.shards)] == expected
    stored = pq.read_table(Path(store.url, pool.shards[0]))["original"].to_pylist()
    assert [strict_json(text) for text in stored] == expected


def test_nan_that_a_json_file_holds_becomes_null_too(store, tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text('{"instruction": "Add.", "input": NaN, "output": "3", "score": -Infinity}\n')
    ((candidate, original),) = read_records(store, ingested(store, path).shards)
    assert candidate.example == Example("Add.", "", "3")
    assert original == {"instruction": "Add.", "input": None, "output": "3", "score": None}


def test_a_damaged_shard_is_named(store, tmp_path):
    pool = ingested(store, jsonl(tmp_path / "pool.jsonl", MIXED))
    Path(store.url, pool.shards[0]).write_bytes(b"PAR1 not really")
    with pytest.raises(StoreError, match=f"^{store.url}/{pool.shards[0]} is damaged and can't be read as Parquet"):
        read_candidates(store, pool.shards[0])


def test_a_shard_that_was_deleted_because_it_was_damaged_is_made_again(store, tmp_path):
    path = jsonl(tmp_path / "pool.jsonl", MIXED)
    pool = ingested(store, path)
    before = {name: content for name, (content, _) in contents(store).items()}
    for lost in (pool.shards[1], pool.rejects_path):
        Path(store.url, lost).unlink()
        assert ingested(store, path) == pool
        assert {name: content for name, (content, _) in contents(store).items()} == before


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"instruction": st.sampled_from(["a", "b", " a", "", "𝄞"]), "output": st.sampled_from(["x", "y", "  "])},
        optional={"input": st.sampled_from(["", "i"]), "extra": st.recursive(TEXT | st.floats(), st.lists)},
    ),
    min_size=1,
    max_size=12,
)


@given(rows=ROWS, shard_size=st.integers(1, 5), memory=st.sampled_from([0, 100, 1 << 20]))
def test_rows_are_examples_duplicates_or_rejects_and_shards_partition_them(tmp_path_factory, rows, shard_size, memory):
    folder = tmp_path_factory.mktemp("pool")
    store = Store(str(folder / "store"))
    usable = [
        (row, Example(item["instruction"], item.get("input", ""), item["output"]))
        for row, item in enumerate(rows)
        if item["instruction"].strip() and item["output"].strip()
    ]
    first = {example.stripped: (example, row) for row, example in reversed(usable)}
    path = jsonl(folder / "pool.jsonl", rows)
    if not usable:
        with pytest.raises(InputError):
            ingested(store, path, share=1.0)
        return
    pool = ingested(store, path, shard_size=shard_size, share=1.0, memory=memory)
    assert pool.rows == len(rows) == pool.examples + pool.duplicates + sum(pool.rejects.values())
    found = [candidate for shard in pool.shards for candidate in read_candidates(store, shard)]
    assert [(candidate.example, candidate.row) for candidate in found] == sorted(
        first.values(), key=lambda item: example_id(item[0])
    )
    assert len(store.read(pool.rejects_path).splitlines()) == len(rows) - len(usable)
    for candidate, original in read_records(store, pool.shards):
        strict_json(json.dumps(original))
        assert original["instruction"] == rows[candidate.row]["instruction"]
