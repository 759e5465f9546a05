"""What the commands that run no flow say, and how they end."""

import json
from pathlib import Path
from typing import Any

import pytest
from selections import store_manifest

from deployments.local_s3 import LocalS3
from flows.cli.commands import app, run_command
from nuggets.errors import StoreError
from nuggets.runs.manifest import RunState, list_runs, open_run, read_run, record_state
from nuggets.store.store import Store

INPUTS = {"pool": {"source": "s3://b/pool.jsonl", "digest": "1f"}, "model": {"name": "org/model", "digest": "2e"}}
COUNTS = {"examples": 32, "anchors": 8, "cells": 256, "cells_found": 15, "cells_computed": 200}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    """A command's exit code, and its lines on stdout and stderr."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        code = run_command(lambda: app([str(argument) for argument in arguments]))
        printed, complained = capsys.readouterr()
        return code, printed.splitlines(), complained.splitlines()

    return run


def begun(store: Store, name: str, state: RunState, message: str = "", **counts: int) -> None:
    open_run(store, name, config={"pool": "p", "seed": 0, "run": None}, identity={"profile": "plain"}, inputs=INPUTS)
    record_state(store, name, state, message, counts=counts, seconds={"score": 1.5})


def test_runs_are_listed_with_what_they_are_made_from_and_why_they_failed(store: Store, cli: Any) -> None:
    begun(store, "done", RunState.COMPLETE, **COUNTS)
    store_manifest(store, "done")
    begun(store, "half", RunState.FAILED, "the disk\nis full", **COUNTS | {"cells_computed": 0})
    open_run(store, "new", config={}, identity={}, inputs={})
    code, printed, complained = cli("runs", "--store", store.url)
    assert (code, complained) == (0, [])
    when = {run.name: run.updated_at[:19].replace("T", " ") for run in list_runs(store)}
    assert [" ".join(line.split()) for line in printed] == [
        "run state updated (UTC) model pool examples x anchors cells selections (cut: kept)",
        f"done complete {when['done']} model pool.jsonl 32 x 8 215 of 256 best 2: 2",
        f"half failed {when['half']} model pool.jsonl 32 x 8 at least 15 of 256 -",
        "the disk is full",
        f"new running {when['new']} - - - - -",
    ]
    _, printed, _ = cli("runs", "--store", store.url, "--json")
    done, half, _ = json.loads("\n".join(printed))
    assert (done["cells"], done["table"], done["pool"], half["message"]) == (
        215,
        256,
        "s3://b/pool.jsonl",
        "the disk\nis full",
    )
    assert done["selections"][0]["address"] == f"{store.url}/runs/done/selections/top-k-2/3f2a"


def test_a_run_is_shown_with_all_of_its_manifest_and_where_its_files_are(store: Store, cli: Any) -> None:
    begun(store, "r", RunState.COMPLETE, **COUNTS)
    store_manifest(store, "r")
    record_state(store, "r", RunState.COMPLETE, references={"scoring_key": "4f", "anchors": "anchors/5e.json"})
    store.write("cells/4f/0-1/a.parquet", b"")
    code, printed, complained = cli("show", "r", "--store", store.url)
    assert (code, complained) == (0, [])
    lines = [" ".join(line.split()) for line in printed]
    for line in (
        "state complete", "cells 215 of 256", "model name org/model, digest 2e", "profile plain", "seed 0",
        "cells_computed 200", "score 1.5",
        f"best 2 kept 2 of 32, 2026-01-01 10:00:00, {store.url}/runs/r/selections/top-k-2/3f2a",
        f"manifest {store.url}/runs/r/manifest.json", f"cells {store.url}/cells/4f",
    ):  # fmt: skip
        assert line in lines
    assert not any("anchors/5e.json" in line for line in lines)  # it is not there
    _, printed, _ = cli("show", "r", "--store", store.url, "--json")
    shown = json.loads("\n".join(printed))
    assert shown["counts"] == COUNTS and shown["files"]["cells"] == f"{store.url}/cells/4f"
    code, _, complained = cli("show", "x", "--store", store.url)
    assert (code, complained) == (2, [f"error: run 'x' is not in store {store.url}; runs there: r"])


def test_an_address_without_a_store_is_reported(tmp_path: Path, store: Store, cli: Any) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    for command in (["runs"], ["gc"], ["show", "r"]):
        for place in ("nowhere", "file", "empty"):
            code, printed, complained = cli(*command, "--store", tmp_path / place)
            assert (code, printed) == (2, [])
            assert complained == [
                f"error: there is no store at {tmp_path / place}: give --store the folder or s3:// address of one"
            ]
    store.write("pools/1f/pool.json", b"{}")
    assert cli("runs", "--store", store.url) == (0, [f"no runs in {store.url}"], [])


def test_an_empty_prefix_is_no_store(s3_server: LocalS3, cli: Any) -> None:
    code, printed, complained = cli("runs", "--store", "s3://pools/empty-prefix")
    assert (code, printed) == (2, []) and "there is no store at s3://pools/empty-prefix" in complained[0]
    store = Store("s3://pools/some-prefix")
    begun(store, "r", RunState.COMPLETE)
    code, printed, _ = cli("runs", "--store", store.url)
    assert code == 0 and printed[1].startswith("r    complete")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"priority": 3}, "unknown field priority"),
        ({"state": "paused"}, "state='paused': Input should be 'running'"),
        ({"format": 2}, "it has format 2, this version reads format 1"),
        ({"identity": None}, "no field identity"),
        (None, "is damaged and can't be read as JSON"),
    ],
    ids=["unknown field", "unknown state", "unknown format", "missing field", "damaged"],
)
def test_a_manifest_that_is_not_understood_is_named_and_the_others_are_listed(
    store: Store, cli: Any, change: dict[str, Any] | None, why: str
) -> None:
    for name in ("a", "b"):
        begun(store, name, RunState.COMPLETE)
    store.write("runs/a/worklists/w.json", b"{}")
    manifest = Path(store.url, "runs/a/manifest.json")
    fields = {**json.loads(manifest.read_text()), **(change or {})}
    manifest.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}) if change else "{")
    with pytest.raises(StoreError) as refused:
        read_run(store, "a")
    assert str(manifest) in str(refused.value) and why in str(refused.value)
    code, printed, complained = cli("runs", "--store", store.url)
    assert (code, [line.split()[0] for line in printed]) == (0, ["run", "b"])
    (warning,) = complained
    assert warning.startswith(f"warning: run 'a' is left out: {manifest} ") and why in warning
    code, printed, complained = cli("gc", "--store", store.url)
    assert code == 0 and complained == [warning] and store.exists("runs/a/worklists/w.json")
    code, _, complained = cli("show", "a", "--store", store.url)
    assert code == 1 and why in complained[0]


def test_scores_of_a_run_that_has_none_are_refused_with_its_state(store: Store, tmp_path: Path, cli: Any) -> None:
    begun(store, "r", RunState.FAILED, "the disk is full")
    code, printed, complained = cli("scores", "r", "--store", store.url, "--out", tmp_path / "s.csv")
    assert (code, printed) == (2, [])
    assert complained == ["error: run 'r' is failed and has no golden scores yet: finish it with nuggets curate first"]


def test_options_are_named_alike_in_help_and_files(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for command in ("reselect", "score-shards", "cells", "scores", "show", "import-scores", "curate"):
        code, printed, _ = cli(command, "--help")
        (usage,) = [line for line in printed if "Usage:" in line]
        name = "FOLDER" if command == "import-scores" else "[POOL...]" if command == "curate" else "RUN"
        assert code == 0 and name in usage.split("[OPTIONS]")[1]
    code, printed, _ = cli("gc", "--help")
    assert not any("bool" in line for line in printed if "--damaged" in line or "--dry-run" in line)
    pool = tmp_path / "pool.jsonl"
    pool.write_text("{}\n")
    for option, value, words in (
        ("dtype", "float33", "dtype='float33' is not known; allowed: auto, float32, bfloat16, float16"),
        ("racing", "maybe", "racing='maybe' is not known; allowed: on, off"),
        ("executor", "spark", "executor='spark' is not known; allowed: local, dask, ray, deployment"),
    ):
        assert cli("curate", pool, f"--{option}", value) == (2, [], [f"error: {words}"])


def test_a_file_spells_options_as_the_command_line_does_or_as_fields(tmp_path: Path, cli: Any) -> None:
    file = tmp_path / "run.yaml"
    for spelt in ("top-fraction", "top_fraction"):
        file.write_text(f"pool: p.jsonl\n{spelt}: 5\n")
        code, _, (complained,) = cli("curate", "--config", file)
        assert code == 2 and complained.startswith("error: top_fraction=5 is out of range")
    file.write_text("pool: p.jsonl\ntop_fraction: 0.1\ntop-fraction: 0.2\n")
    code, _, (complained,) = cli("curate", "--config", file)
    assert (code, complained) == (
        2, f"error: config='{file}' gives top_fraction twice, as top-fraction too: leave one of them out"
    )  # fmt: skip
