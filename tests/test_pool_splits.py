"""Pools of several files: splits, folders, globs and lists of addresses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from saved_datasets import save_dataset

from nuggets.errors import UsageError
from nuggets.examples import PoolRow
from nuggets.pools.left_out import LeftOut
from nuggets.pools.readers.detect import copied_files, file_digests, find_source, source_digest
from nuggets.pools.readers.rows import read_pool
from nuggets.pools.readers.splits import split_of


def write_rows(path: Path, *names: str) -> Path:
    """A file whose rows have these outputs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"instruction": "Q", "output": name} for name in names]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def outputs(*addresses: Path | str, split: str | None = None) -> list[str]:
    source = find_source([str(address) for address in addresses], split=split)
    rows = [item for _, item in read_pool(source, max_row_bytes=10_000)]
    return [item.example.output for item in rows if isinstance(item, PoolRow)]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("data/train-00000-of-00001.parquet", "train"),
        ("train_sft-00000-of-00003.parquet", "train_sft"),
        ("test_gen-00000-of-00003.parquet", "test_gen"),
        ("train.jsonl", "train"),
        ("my_train.json.gz", "train"),
        ("train/part-0.csv", "train"),
        ("data/validation/0000.parquet", "validation"),
        ("alpaca-dev.jsonl", "dev"),
        ("test.jsonl.zst", "test"),
        ("Test2.JSONL", "test"),
        ("heldout.jsonl", "heldout"),
        ("part-00000-of-00002.parquet", None),
        ("contest.jsonl", None),
        ("trains.jsonl", None),
        ("development.jsonl", None),
        ("data/part.jsonl", None),
    ],
)
def test_the_split_that_a_path_names(path: str, split: str | None) -> None:
    assert split_of(path) == split


LAYOUTS = [
    ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
    ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"),
    ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
    ("data/train/0000.jsonl", "data/train/0001.jsonl", "data/test/0000.jsonl"),
    ("train_1.jsonl", "train_2.jsonl", "test.jsonl"),
    ("train_1.jsonl", "train_2.jsonl", "extra.jsonl"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_train_is_read_and_what_is_left_out_is_named(tmp_path: Path, layout: tuple[str, str, str]) -> None:
    for name, row in zip(layout, "abc", strict=True):
        write_rows(tmp_path / "pool" / name, row)
    (tmp_path / "pool" / "README.md").write_text("a card")
    (tmp_path / "pool" / ".cache" / "train").mkdir(parents=True)
    write_rows(tmp_path / "pool" / ".cache" / "train" / "x.jsonl", "z")
    folder = tmp_path / "pool"
    assert outputs(folder) == ["a", "b"]
    (left_out,) = find_source(str(folder)).left_out
    why = f"only split 'train' of pool '{folder}' is read; --split chooses another, --split all reads all"
    assert left_out == LeftOut("files of no split" if "extra" in layout[2] else "files of split 'test'", 1, why)
    assert str(left_out) == f"{left_out.what}: 1 ({why})"
    assert sorted(outputs(folder, split="all")) == ["a", "b", "c"]
    assert find_source(str(folder), split="all").left_out == ()
    if "test" in layout[2]:
        assert outputs(folder, split="test") == ["c"]


def test_a_folder_with_splits_but_no_train_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("train_sft-00000-of-00001", "test_sft-00000-of-00001", "test_gen-00000-of-00001"):
        write_rows(tmp_path / "data" / f"{name}.parquet", name)
    message = (
        f"^pool '{tmp_path}' has the splits 'test_gen', 'test_sft', 'train_sft', and none of them is named train: "
    )
    with pytest.raises(UsageError, match=message):
        find_source(str(tmp_path))
    with pytest.raises(UsageError, match="and 'dev' is none of them: name one with --split"):
        find_source(str(tmp_path), split="dev")
    assert outputs(tmp_path, split="train_sft") == ["train_sft-00000-of-00001"]


def test_a_folder_of_one_held_out_split_is_refused_and_a_file_that_is_named_is_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pool" / "test.jsonl", "a")
    with pytest.raises(UsageError, match="has the splits 'test', and none of them is named train"):
        find_source(str(path.parent))
    assert outputs(path) == outputs(path, split="test") == outputs(path.parent, split="test") == ["a"]


def test_a_dataset_saved_with_splits(tmp_path: Path) -> None:
    for split in ("test", "train"):
        save_dataset(tmp_path / split, [{"instruction": "Q", "output": split}])
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["test", "train"]}))
    assert (outputs(tmp_path), outputs(tmp_path, split="test")) == (["train"], ["test"])
    assert [item.what for item in find_source(str(tmp_path)).left_out] == ["files of split 'test'"]
    assert outputs(tmp_path / "test") == ["test"]
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["test"]}))
    with pytest.raises(UsageError, match="has the splits 'test', and none of them is named train"):
        find_source(str(tmp_path))


CARDS = [
    """
- config_name: default
  data_files:
  - split: train
    path: 'a/*.jsonl'
  - split: test
    path: b.jsonl
""",
    """
- config_name: en
  data_files: c.jsonl
- config_name: fr
  default: true
  data_files:
    train: [a/1.jsonl]
""",
    """
- config_name: one
  data_files:
  - a/1.jsonl
""",
]


@pytest.mark.parametrize("configs", CARDS)
def test_the_card_of_a_dataset_names_files_and_splits(tmp_path: Path, configs: str) -> None:
    for name, row in (("a/1.jsonl", "a"), ("b.jsonl", "b"), ("c.jsonl", "c")):
        write_rows(tmp_path / name, row)
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\nconfigs:{configs}---\n# A dataset\n")
    assert outputs(tmp_path) == ["a"]


def test_a_card_with_several_configurations_is_refused_with_their_names(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "en.jsonl", "a")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("en", "fr"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(UsageError, match="has the configurations 'en', 'fr', and its README.md says"):
        find_source(str(tmp_path))
    for text in ("a card", "---\nlicense: mit\n---\n", "---\nconfigs: [", "---\n{: [\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert outputs(tmp_path) == ["a"], path


def test_files_globs_and_folders_are_one_pool_sorted_by_address(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_rows(tmp_path / "parts" / f"{name}.jsonl", name)
    one = write_rows(tmp_path / "one.jsonl", "one")
    (tmp_path / "parts" / "notes.md").write_text("no rows")
    assert outputs(tmp_path / "parts") == outputs(f"{tmp_path}/parts/*.jsonl") == ["a", "b", "c"]
    assert outputs(f"{tmp_path}/parts/*") == outputs(f"{tmp_path}/pa*") == ["a", "b", "c"]
    assert outputs(f"{tmp_path}/parts/[ab].jsonl") == ["a", "b"]
    assert outputs(tmp_path / "parts", one) == outputs(one, f"{tmp_path}/parts/?.jsonl") == ["one", "a", "b", "c"]
    assert find_source([str(one), str(tmp_path / "parts")]).name == f"{one} and 1 more"
    with pytest.raises(UsageError, match=f"no file matches '{tmp_path}/x\\*.jsonl'"):
        find_source(f"{tmp_path}/x*.jsonl")
    literal = write_rows(tmp_path / "[1].jsonl", "literal")
    assert outputs(literal) == ["literal"]


def test_files_of_several_formats_are_one_pool_only_if_they_are_named(
    tmp_path: Path,
) -> None:
    table, lines = write_rows(tmp_path / "a.parquet", "a"), write_rows(tmp_path / "b.jsonl", "b")
    assert outputs(table, lines) == ["a", "b"]
    with pytest.raises(UsageError, match=r"holds files of several formats: .jsonl \(1\), .parquet \(1\). Name those"):
        find_source(str(tmp_path))
    lines.unlink()
    (tmp_path / "stats.json").write_text("{}")
    assert outputs(tmp_path) == ["a"]
    why = f"stats.json: the other files of folder '{tmp_path}' have another format"
    assert find_source(str(tmp_path)).left_out == (LeftOut("files of another format", 1, why),)


def test_splits_of_files_that_are_given_one_by_one(tmp_path: Path) -> None:
    train, test = write_rows(tmp_path / "train.jsonl", "a"), write_rows(tmp_path / "test.jsonl", "b")
    assert outputs(train, test) == outputs(f"{tmp_path}/*.jsonl") == ["a"]
    assert "files of split 'test'" in str(find_source([str(train), str(test)]).left_out[0])
    assert outputs(train, test, split="all") == ["b", "a"]
    left = [write_rows(tmp_path / f"{split}/x.jsonl", split) for split in ("train", "test")]
    assert outputs(*left) == ["train"]


def test_files_that_are_given_twice_or_copied_are_named(tmp_path: Path) -> None:
    first, copy = write_rows(tmp_path / "a.jsonl", "a"), write_rows(tmp_path / "b.jsonl", "a")
    other = write_rows(tmp_path / "c.jsonl", "c")
    source = find_source([str(first), str(first), f"{tmp_path}/*.jsonl"])
    assert [file.address for file in source.files] == [str(first), str(copy), str(other)]
    why = f"each file of pool '{first} and 2 more' is read once"
    assert source.left_out == (LeftOut("addresses that name a file again", 2, why),)
    assert copied_files(source, file_digests(source)) == (
        LeftOut("copies of files", 1, f"their rows are duplicates: '{copy}' of '{first}'"),
    )


def test_the_digest_depends_on_contents_and_order_and_not_on_names(tmp_path: Path) -> None:
    for name, row in (("x/1.jsonl", "a"), ("x/2.jsonl", "b"), ("y/p.jsonl", "a"), ("y/q.jsonl", "b")):
        write_rows(tmp_path / name, row)
    for name, row in (("z/1.jsonl", "b"), ("z/2.jsonl", "a")):
        write_rows(tmp_path / name, row)
    first, renamed, other = (source_digest(find_source(str(tmp_path / name))) for name in "xyz")
    assert first == renamed != other
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "1.jsonl").write_bytes(b"".join((tmp_path / "x" / f"{n}.jsonl").read_bytes() for n in (1, 2)))
    assert source_digest(find_source(str(tmp_path / "w"))) != first


def test_a_reject_names_its_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", "a")
    (tmp_path / "b.jsonl").write_text('\n{"instruction": "Q"}\n')
    (_, _), (position, _) = read_pool(find_source(str(tmp_path)), max_row_bytes=1000)
    assert str(position) == "row 1 (line 2 of b.jsonl)"


@pytest.fixture
def memory() -> Iterator[Any]:
    """An object store in this process: fsspec's own file system behind memory:// URLs."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/splits", recursive=True)


def test_folders_globs_and_splits_behind_a_url(tmp_path: Path, memory: Any) -> None:
    for name, row in (("data/train-1.jsonl", "a"), ("data/train-2.jsonl", "b"), ("data/test.jsonl", "c")):
        write_rows(tmp_path / name, row)
    memory.put(str(tmp_path / "data"), "/splits/data", recursive=True)
    url = "memory://splits"
    assert outputs(url) == outputs(f"{url}/data") == outputs(f"{url}/data/*.jsonl") == ["a", "b"]
    assert outputs(f"{url}/data/t*.jsonl", split="test") == ["c"]
    assert [file.address for file in find_source(f"{url}/data/train*").files] == [
        f"{url}/data/train-{number}.jsonl" for number in (1, 2)
    ]
