"""Wrong or unusable input: one clear message, the right exit code, nothing lost."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import EXAMPLES
from selections import selection_path

NUGGETS = str(Path(sys.executable).with_name("nuggets"))
Cli = Callable[..., subprocess.CompletedProcess[str]]
Nuggets = Callable[..., tuple[int, str]]


def in_subprocess(*arguments: object, **options: object) -> tuple[int, str]:
    command = [NUGGETS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def nuggets(cli: Cli) -> Nuggets:
    """Exit code and errors of a command that runs in this process."""

    def run(*arguments: object) -> tuple[int, str]:
        done = cli(*arguments)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr

    return run


def test_wrong_usage_is_refused_in_a_moment_with_exit_code_2(
    tmp_path: Path, pool_file: Path, tiny_model: Path, nuggets: Nuggets
) -> None:
    (tmp_path / "not-a-model").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "lists.json").write_text('{"train": [{"a": 1}], "test": [{"a": 1}]}')
    for split in ("dev", "test"):
        (tmp_path / "splits").mkdir(exist_ok=True)
        (tmp_path / "splits" / f"{split}.jsonl").write_text('{"instruction": "Q", "output": "A"}\n')
    (tmp_path / "several.yaml").write_text(f"pool: [{pool_file}, {tmp_path}/gone.jsonl]\n")
    (tmp_path / "unknown.yaml").write_text("pool: p.json\nanchor: 5\n")
    (tmp_path / "broken.yaml").write_text("pool: [")
    (tmp_path / "list.yaml").write_text("- 1\n")
    common = ("--store", tmp_path / "store", "--model", tiny_model)
    refused = {
        ("curate",): "pool is missing",
        ("curate", tmp_path / "nowhere.json", *common): "no file or folder at",
        ("curate", tmp_path / "empty.jsonl", *common): "is an empty file",
        ("curate", tmp_path / "notes.txt", *common): "the format of",
        ("curate", pool_file, tmp_path / "gone.jsonl", *common): f"no file or folder at '{tmp_path}/gone.jsonl'",
        ("curate", f"{tmp_path}/gone*", *common): f"no file matches '{tmp_path}/gone*'",
        ("curate", "--config", tmp_path / "several.yaml", *common): f"no file or folder at '{tmp_path}/gone.jsonl'",
        ("curate", tmp_path / "lists.json", *common): "lists of objects in 'train', 'test': name the one",
        ("curate", tmp_path / "splits", *common): "has the splits 'dev', 'test', and none of them is named train",
        ("curate", tmp_path / "splits", "--split", "val", *common): "and 'val' is none of them: name one with --split",
        ("curate", pool_file, "--threshold", "1.5"): "threshold=1.5 is out of range: allowed is 0 to 1",
        (
            "curate",
            pool_file,
            "--top-k",
            "3",
            "--top-fraction",
            "0.1",
        ): "top_k=3, top_fraction=0.1: give one cut, not 2",
        ("curate", pool_file, "--anchors", "0"): "anchors=0 is out of range: allowed is 1 or more",
        ("curate", pool_file, "--profile", "fancy"): "fancy",
        ("curate", pool_file, "--model", tmp_path / "not-a-model"): "is an empty folder: check the path",
        ("curate", pool_file, "--model", tmp_path / "none"): "there is no such folder or file",
        ("curate", pool_file, "--encoder", tmp_path / "not-a-model"): "is an empty folder: check the path",
        ("curate", pool_file, "--anchor-file", tmp_path / "no.json", *common): "no file or folder at",
        ("curate", "--config", tmp_path / "unknown.yaml"): "unknown key anchor. Known keys: pool, split, store",
        ("curate", "--config", tmp_path / "broken.yaml"): "is not YAML",
        ("curate", "--config", tmp_path / "list.yaml"): "holds list",
        ("curate", "--config", tmp_path / "none.yaml"): "can't be read",
        ("reselect", "ghost", "--top-k", "1", "--store", tmp_path): "run 'ghost' is not in store",
        ("reselect", "ghost", "--store", tmp_path): "no cut is given",
        ("cells", "ghost", "--out", tmp_path / "c.parquet", "--store", tmp_path): "run 'ghost' is not in store",
        ("curate", pool_file, "--shards", "3"): "No such option",
    }
    for arguments, message in refused.items():
        code, output = nuggets(*arguments)
        assert message in " ".join(output.split()).replace("│ ", ""), (arguments, output)
        assert code == 2, (arguments, code, output)


def test_a_model_without_a_tokenizer_is_refused_naming_the_missing_files(
    tmp_path: Path, pool_file: Path, tiny_model: Path, nuggets: Nuggets
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_model / name).read_bytes())
    code, output = nuggets("curate", pool_file, "--model", bare, "--store", tmp_path / "store")
    assert code == 2 and "has no tokenizer" in output and "tokenizer.json" in output


@pytest.mark.usefixtures("prefect_server")
def test_a_pool_that_can_not_be_used_fails_with_counts_and_exit_code_1(
    tmp_path: Path, tiny_model: Path, nuggets: Nuggets
) -> None:
    (tmp_path / "void.json").write_text("[]")
    (tmp_path / "useless.jsonl").write_text('{"instruction": "a"}\n[1]\nnot json\n')
    common = ("--store", tmp_path / "store", "--model", tiny_model)
    code, output = nuggets("curate", tmp_path / "void.json", *common)
    assert code == 1 and "has no rows" in output
    code, output = nuggets("curate", tmp_path / "useless.jsonl", *common)
    assert code == 1 and "3 of 3 rows" in output
    assert "undecodable 1" in output and "unknown_fields 1" in output and "not_an_object 1" in output
    rejects = [path.read_text().splitlines() for path in (tmp_path / "store" / "pools").glob("*/rejects.jsonl")]
    assert sorted(map(len, rejects)) == [0, 3]


def test_a_store_that_can_not_be_written_is_named_at_once(
    tmp_path: Path, pool_file: Path, tiny_model: Path, nuggets: Nuggets
) -> None:
    (tmp_path / "file").write_text("in the way")
    code, output = nuggets("curate", pool_file, "--model", tiny_model, "--store", tmp_path / "file" / "store")
    assert code == 1 and f"could not write {tmp_path}/file/store" in output


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_full_disk_fails_the_run_and_a_rerun_continues_from_the_stored_cells(
    tmp_path: Path, tiny_model: Path, nuggets: Nuggets
) -> None:
    pool = tmp_path / "pool.jsonl"
    rows = [{**EXAMPLES[index % 20], "instruction": f"Task {index}: be short."} for index in range(100)]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    anchors = tmp_path / "anchors.json"
    anchors.write_text(json.dumps(EXAMPLES[:4]))
    store = tmp_path / "store"
    common = ("curate", pool, "--model", tiny_model, "--store", store, "--anchor-file", anchors, "--run", "full")

    code, output = in_subprocess(*common, preexec_fn=_small_files_only)
    assert code == 1 and "could not write" in output and "what is stored already is kept" in output, output
    assert not list(store.rglob(".pending-*"))

    code, output = nuggets(*common)
    assert code == 0, output
    assert (store / selection_path(store, "full", "top-fraction-0.05") / "selected.jsonl").exists()


def _small_files_only() -> None:
    """No file may grow beyond a few kilobytes: what a full disk or a quota does to a writer, without needing root."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))


@pytest.mark.usefixtures("prefect_server")
def test_a_dead_prefect_server_is_named(tmp_path: Path, pool_file: Path, tiny_model: Path) -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    code, output = in_subprocess(
        "curate", pool_file, "--model", tiny_model, "--store", tmp_path / "store", env=environment
    )
    assert code == 1 and "no Prefect server answers at PREFECT_API_URL=http://127.0.0.1:9/api" in output


@pytest.mark.slow
def test_a_prefect_home_that_can_not_be_written_is_named(tmp_path: Path, pool_file: Path, tiny_model: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment["PREFECT_HOME"] = str(tmp_path / "file" / "home")
    code, output = in_subprocess(
        "curate", pool_file, "--model", tiny_model, "--store", tmp_path / "store", env=environment
    )
    assert code == 1 and "set PREFECT_HOME to a writable folder" in output
