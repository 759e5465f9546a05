"""What commands write to pipes: tables, JSON, and how they end when the pipe closes."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES

from nuggets.scores.cuts import TopK
from nuggets.steps.import_released import import_scores
from nuggets.steps.publish import publish_selection
from nuggets.store.store import Store

NUGGETS = str(Path(sys.executable).with_name("nuggets"))
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with run 'r' of twenty candidates and two anchors, and a selection of three."""
    folder = tmp_path_factory.mktemp("pipes")
    store = Store(str(folder / "store"))
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES))
    (folder / "anchors.json").write_text(json.dumps(EXAMPLES[:2]))
    (folder / "theirs").mkdir()
    scores = {str(row): [(row % 3) / 2] for row in range(len(EXAMPLES))}
    (folder / "theirs" / "0_20_score.json").write_text(json.dumps(scores))
    files = {"pool": str(folder / "pool.jsonl"), "anchor_file": str(folder / "anchors.json")}
    import_scores(store, folder / "theirs", run="r", **files)
    publish_selection(store, "r", TopK(3))
    return store


def in_shell(command: str, store: Store, folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a line of bash in which `nuggets` and $STORE are known."""
    environment = {**os.environ, "STORE": store.url, "PATH": f"{Path(NUGGETS).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def rows_of(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_table_goes_to_standard_output_and_its_summary_to_standard_error(
    store: Store, cli: Cli, tmp_path: Path
) -> None:
    for export in ("scores", "anchors"):
        command = (export, "r", "--store", store.url, "--out")
        for extension, options in ((".csv", ()), (".jsonl", ("--json",))):
            file = tmp_path / f"{export}{extension}"
            assert cli(*command, file).returncode == 0
            for out in ("-", "/dev/stdout"):
                done = cli(*command, out, *options)
                assert (done.returncode, done.stdout) == (0, file.read_text()), done.stderr
                assert " on standard output" in done.stderr
    assert len(rows_of((tmp_path / "scores.csv").read_text())) == len(EXAMPLES)


def test_a_shell_pipes_appends_and_substitutes(store: Store, tmp_path: Path) -> None:
    code, printed, complained = in_shell(
        "nuggets scores r --store $STORE --out - | tail -n +2 | wc -l", store, tmp_path
    )
    assert (code, int(printed), complained.count("\n")) == (0, len(EXAMPLES), 1)
    (tmp_path / "all.csv").write_text("earlier\n")
    code, _, complained = in_shell("nuggets anchors r --store $STORE --out /dev/stdout >> all.csv", store, tmp_path)
    assert code == 0, complained
    assert (tmp_path / "all.csv").read_text().splitlines()[0] == "earlier"
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1 + 1 + 2
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]


def test_a_named_pipe_is_written_and_stays_a_pipe(store: Store, cli: Cli, tmp_path: Path) -> None:
    for name, lines in (("pipe", 21), ("pipe.jsonl", 20)):
        pipe = tmp_path / name
        os.mkfifo(pipe)
        read: list[str] = []
        reader = threading.Thread(target=lambda pipe=pipe, read=read: read.append(pipe.read_text()))
        reader.start()
        done = cli("scores", "r", "--store", store.url, "--out", pipe)
        reader.join(timeout=60)
        assert (done.returncode, len(read[0].splitlines())) == (0, lines), done.stderr
        assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.mkfifo(tmp_path / "pipe.parquet")
    done = cli("scores", "r", "--store", store.url, "--out", tmp_path / "pipe.parquet")
    assert done.returncode == 2 and "is a pipe, and .parquet needs a file: allowed are .csv, .jsonl" in done.stderr
    assert cli("scores", "r", "--store", store.url, "--out", "/dev/null").returncode == 0


@pytest.mark.parametrize("command", ["scores r --out -", "scores r --out - --json", "runs", "show r --json"])
def test_a_pipe_that_is_closed_ends_the_command_quietly_as_sigpipe_does(command: str, store: Store) -> None:
    process = subprocess.Popen(
        [NUGGETS, *command.split(), "--store", store.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(timeout=120), process.stderr.read()) == (141, "")
    process.stderr.close()


def test_json_is_one_object_on_standard_output(store: Store, cli: Cli, tmp_path: Path) -> None:
    expected: dict[tuple[str, ...], dict[str, Any]] = {
        ("scores", "r", "--out", f"{tmp_path}/s.csv"): {
            "run": "r", "candidates": 20, "selection": "top-k-3", "cut": "best 3", "out": f"{tmp_path}/s.csv"
        },
        ("anchors", "r", "--out", f"{tmp_path}/a.jsonl"): {"run": "r", "anchors": 2, "out": f"{tmp_path}/a.jsonl"},
        ("gc", "--dry-run"): {"leftovers": 0, "worklists": 0, "scattered": 0, "damaged": 0},
        ("reselect", "r", "--top-k", "4"): {
            "run": "r", "name": "top-k-4", "cut": "best 4", "kept": 4, "candidates": 20, "was_published_before": False
        },
        ("show", "r"): {"name": "r", "state": "complete"},
    }  # fmt: skip
    for command, facts in expected.items():
        done = cli(*command, "--store", store.url, "--json")
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert {name: shown[name] for name in facts} == facts
    done = cli("reselect", "r", "--top-k", "4", "--store", store.url, "--json")
    assert json.loads(done.stdout)["was_published_before"] and Path(json.loads(done.stdout)["address"]).is_dir()
    listed = json.loads(cli("runs", "--store", store.url, "--json").stdout)
    assert [run["name"] for run in listed] == ["r"]


def test_an_error_leaves_standard_output_empty(store: Store, cli: Cli, tmp_path: Path) -> None:
    for command in (("scores", "none", "--out", "-"), ("cells", "r", "--out", "-"), ("show", "none", "--json")):
        done = cli(*command, "--store", store.url)
        assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: run "), done.stderr


def test_import_scores_shows_its_counts_as_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "0_2_score.json").write_text(json.dumps({"0": [0.5], "1": [1.0]}))
    (tmp_path / "pool.json").write_text(json.dumps(EXAMPLES[:4]))
    (tmp_path / "anchors.json").write_text(json.dumps(EXAMPLES[:2]))
    files = ("--pool", tmp_path / "pool.json", "--anchor-file", tmp_path / "anchors.json", "--run", "theirs")
    done = cli("import-scores", tmp_path / "theirs", *files, "--store", tmp_path / "store", "--json")
    shown = json.loads(done.stdout)
    assert (shown["run"], shown["counts"]["imported_scores"]) == ("theirs", 2)


@pytest.mark.usefixtures("prefect_server")
def test_curate_shows_its_selection_as_json(cli: Cli, tmp_path: Path, pool_file: Path, tiny_model: Path) -> None:
    (tmp_path / "anchors.json").write_text(json.dumps(EXAMPLES[:2]))
    options = ("--model", tiny_model, "--anchor-file", tmp_path / "anchors.json", "--top-k", "2", "--run", "mine")
    done = cli("curate", pool_file, *options, "--store", tmp_path / "store", "--json")
    shown = json.loads(done.stdout)
    assert (shown["run"], shown["kept"], shown["candidates"]) == ("mine", 2, 20)
    assert (Path(shown["address"]) / "selected.jsonl").is_file() and "run mine in" in done.stderr
    done = cli("score-shards", "mine", "--store", tmp_path / "store", "--json")
    assert json.loads(done.stdout) == {"run": "mine", "part": 0, "parts": 1, "cells_computed": 0}
