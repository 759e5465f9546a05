"""The main job end to end with a real (tiny) language model and a real encoder."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import job
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import EXAMPLES
from selections import selection_path

import tasks.publish
from deployments.local_s3 import LocalS3
from nuggets.config.configs import CurateConfig, ReselectConfig
from nuggets.errors import InputError, NuggetsError, UsageError
from nuggets.pools.ingest import ingest_pool
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.pools.shards import read_candidates
from nuggets.steps.export import export_cells
from nuggets.steps.publish import Selection, publish_selection
from nuggets.store.store import Store

NUGGETS = str(Path(sys.executable).with_name("nuggets"))

Cli = Callable[..., subprocess.CompletedProcess[str]]


def configured(pool: object, store: Path, model: Path, **options: object) -> CurateConfig:
    return CurateConfig(pool=str(pool), store=str(store), model=str(model), **options)


def run_job(*arguments: Any, **options: object) -> Selection:
    return job.curate(configured(*arguments, **options))


def run_flow(*arguments: Any, **options: object) -> Selection:
    from flows.curate import curate

    return curate(configured(*arguments, **options))


def manifest(store: Path, run: str) -> dict:
    return json.loads((store / "runs" / run / "manifest.json").read_text())


def artifacts(server: str, key: str, *, about: str) -> list[Any]:
    """What the UI is given under a key, as far as it speaks of a store."""
    found = httpx.post(f"{server}/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}}).raise_for_status()
    return [item["data"] for item in found.json() if about in json.dumps(item)]


def test_curate_reselect_and_exports_as_a_user_runs_them(
    tmp_path: Path, pool_file: Path, tiny_model: Path, prefect_server: str, s3_server: LocalS3, cli: Cli
) -> None:
    store = tmp_path / "store"
    common = ("--store", store, "--model", tiny_model, "--run", "first", "--shard-size", 8, "--racing", "off")
    common = (*common, "--anchor-tokens", 24)  # some examples are longer

    command = [NUGGETS, "curate", *map(str, (pool_file, *common))]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert first.returncode == 0, first.stderr
    assert "anchors: 5 instead of 100, because the pool has only 20 examples" in first.stderr
    assert "cells: 100 in the full table, 0 stored, 100 to compute" in first.stderr
    folder = store / selection_path(store, "first", "top-fraction-0.05")
    assert first.stdout.splitlines() == ["run first, cut best 5 %: kept 1 of 20", str(folder)]
    assert {path.name for path in folder.iterdir()} == {
        "selected.jsonl",
        "scores.parquet",
        "scores.png",
        "anchors.parquet",
        "report.md",
        "manifest.json",
    }
    assert manifest(store, "first")["references"]["engine_paths"] == ["packed (by_equal_lengths)"]
    counts = manifest(store, "first")["counts"]
    assert counts["cell_conflicts"] == counts["long_examples"] == 0
    assert counts["anchors_passed_over_truncated"] > 0
    assert "| scored | packed (by_equal_lengths) |" in (folder / "report.md").read_text()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (page,) = artifacts(prefect_server, "selection", about=str(folder))
    picture = base64.b64encode((folder / "scores.png").read_bytes()).decode()
    assert f"](data:image/png;base64,{picture})\n\n```text\n" in page and "](scores.png)" not in page
    assert all(f"| {path.name} | `{path}` |" in page for path in before)
    assert f"| best 5 % | 1 | {folder} |" in page
    assert len(page) < 1_000_000
    assert artifacts(prefect_server, "selected", about=str(store)) == []  # a browser does not open paths of a server
    assert 100 in artifacts(prefect_server, "embed", about="3 of 3 tasks are done")

    again = cli("curate", pool_file, *common)
    assert again.returncode == 0, again.stderr
    assert "cells: 100 in the full table, 100 stored, nothing to compute" in again.stderr
    assert "loaded" not in again.stderr  # no model
    assert manifest(store, "first")["counts"]["cells_computed"] == 0

    cut = cli("reselect", "first", "--store", store, "--top-k", 3)
    assert cut.returncode == 0, cut.stderr
    third = store / selection_path(store, "first", "top-k-3")
    assert len(artifacts(prefect_server, "selection", about=str(third))) == 1  # a command is a flow run like any other
    chosen = [
        json.loads(line) for line in (store / selection_path(store, "first", "top-k-3") / "selected.jsonl").open()
    ]
    assert [row["rank"] for row in chosen] == [1, 2, 3]
    originals = [{name: row[name] for name in ("instruction", "input", "output")} for row in chosen]
    assert all(row in EXAMPLES for row in originals)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before

    assert cli("cells", "first", "--store", store, "--out", tmp_path / "cells.parquet").returncode == 0
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    columns = ["candidate_id", "candidate_row", "anchor_id", "anchor_row", "zero_shot", "one_shot"]
    assert (list(cells.columns), len(cells)) == (columns, 100)
    assert cli("scores", "first", "--store", store, "--out", tmp_path / "scores.parquet").returncode == 0
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    columns = ["candidate_id", "candidate_row", "golden_score", "score_low", "score_high", "wins", "cells", "anchors"]
    columns += ["mean_gain", "kept", "cut_tokens", "unscorable"]
    assert (list(scores.columns), len(scores)) == (columns, 20)
    assert int(scores["kept"].sum()) == 3
    assert (scores["golden_score"] == scores["score_low"]).all() and (scores["cells"] == scores["anchors"]).all()
    assert chosen[0]["example_id"] in set(scores.loc[scores["kept"], "candidate_id"])

    # The scores are what the cells say, the candidate's own cell left out.
    eligible = cells[cells["candidate_id"] != cells["anchor_id"]]
    wins = (eligible["one_shot"] > eligible["zero_shot"]).groupby(eligible["candidate_id"]).agg(["sum", "count"])
    expected = (wins["sum"] / wins["count"]).loc[scores["candidate_id"]].to_numpy()
    np.testing.assert_allclose(scores["golden_score"], expected)
    assert sorted(set(scores["anchors"])) == [4, 5]

    listing = cli("runs", "--store", store).stdout
    assert "first" in listing and "complete" in listing and "best 5 %: 1; best 3: 3" in listing

    # The same store on S3: there the chosen examples have an address to follow.
    from flows.reselect import reselect

    remote = Store(f"s3://pools/{tmp_path.name}")
    for path in Store(str(store)).list(""):
        remote.write(path, (store / path).read_bytes())
    url = reselect(ReselectConfig(run="first", store=remote.url, top_k=4)).folder
    (link,) = artifacts(prefect_server, "selected", about=remote.url)
    assert f"[{url}/selected.jsonl]({url}/selected.jsonl)" in link
    (page,) = artifacts(prefect_server, "selection", about=url)
    assert f"| scores.png | `{url}/scores.png` |" in page


@pytest.mark.usefixtures("prefect_server")
def test_a_yaml_file_and_the_command_line_go_together(
    tmp_path: Path, pool_file: Path, tiny_model: Path, cli: Cli
) -> None:
    settings = {"pool": str(pool_file), "model": str(tiny_model), "anchors": 2, "threshold": 0.9, "run": "yaml"}
    (tmp_path / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    done = cli("curate", "--config", tmp_path / "run.yaml", "--store", tmp_path / "store", "--top-k", 4)
    assert done.returncode == 0, done.stderr
    assert "kept 4 of 20" in done.stdout
    config = manifest(tmp_path / "store", "yaml")["config"]
    assert {name: config[name] for name in settings} == {**settings, "pool": [str(pool_file)], "threshold": None}


@pytest.mark.slow
def test_two_runs_of_the_same_inputs_are_byte_identical(tmp_path: Path, pool_file: Path, tiny_model: Path) -> None:
    for name, shard_size in (("one", 20), ("two", 20)):
        run_job(pool_file, tmp_path / name, tiny_model, run="r", shard_size=shard_size)
    folders = [tmp_path / name / selection_path(tmp_path / name, "r", "top-fraction-0.05") for name in ("one", "two")]
    for file in ("selected.jsonl", "scores.parquet"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def test_cells_and_selection_do_not_depend_on_how_the_pool_is_cut_into_shards(
    tmp_path: Path, pool_file: Path, tiny_model: Path
) -> None:
    for name, shard_size in (("whole", 20), ("pieces", 3)):
        options = {"shard_size": shard_size, "anchors": 4, "top_k": 5, "racing": "off"}
        run_job(pool_file, tmp_path / name, tiny_model, run="r", **options)
        export_cells(Store(str(tmp_path / name)), "r", tmp_path / f"{name}.parquet")
    whole, pieces = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "pieces"))
    pd.testing.assert_frame_equal(whole, pieces, rtol=1e-5)
    chosen = [
        (tmp_path / name / selection_path(tmp_path / name, "r", "top-k-5") / "selected.jsonl").open()
        for name in ("whole", "pieces")
    ]
    ids = [[json.loads(line)["example_id"] for line in file] for file in chosen]
    assert ids[0] == ids[1] and len(ids[0]) == 5


def test_a_larger_pool_and_another_shard_size_compute_only_what_is_new(
    tmp_path: Path, pool_file: Path, tiny_model: Path
) -> None:
    anchors = tmp_path / "anchors.json"
    anchors.write_text(json.dumps(EXAMPLES[:4]))
    store = tmp_path / "store"
    run_job(pool_file, store, tiny_model, run="small", anchor_file=str(anchors), shard_size=7, racing="off")
    larger = tmp_path / "larger.jsonl"
    extra = {"instruction": "Say hello.", "input": "", "output": "Hello!"}
    larger.write_text("".join(json.dumps(row) + "\n" for row in [extra, *EXAMPLES]))
    run_job(larger, store, tiny_model, run="large", anchor_file=str(anchors), shard_size=3, racing="off")
    counts = manifest(store, "large")["counts"]
    assert (counts["cells"], counts["cells_found"], counts["cells_computed"]) == (84, 80, 4)


def _as_sharegpt(row: dict) -> dict:
    return {"conversations": [{"from": "human", "value": row["instruction"]}, {"from": "gpt", "value": row["output"]}]}


def _as_messages(row: dict) -> dict:
    turns = [("system", "Be kind."), ("user", row["instruction"]), ("assistant", row["output"])]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _write_saved_dataset(folder: Path, rows: list[dict]) -> None:
    folder.mkdir()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


@pytest.mark.parametrize("form", ["json", "jsonl", "dolly", "parquet", "sharegpt", "messages", "dataset"])
def test_every_pool_format_is_ingested_as_the_same_examples(form: str, tmp_path: Path) -> None:
    rows = EXAMPLES[:8]
    pool = tmp_path / {"parquet": "pool.parquet", "dataset": "pool", "jsonl": "pool.jsonl"}.get(form, "pool.json")
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), pool)
    elif form == "dataset":
        _write_saved_dataset(pool, rows)
    elif form == "jsonl":
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        names = {"instruction": "instruction", "input": "context", "output": "response"}
        convert = {
            "json": dict,
            "dolly": lambda row: {names[key]: value for key, value in row.items()},
            "sharegpt": _as_sharegpt,
            "messages": _as_messages,
        }[form]
        pool.write_text(json.dumps([convert(row) for row in rows]))
    store = Store(str(tmp_path / "store"))
    source = find_source(str(pool))
    limits = {"shard_size": 8, "max_row_bytes": 10_000, "max_rejected_share": 0.0}
    (shard,) = ingest_pool(store, source, source_digest(source), **limits).shards
    has_input = form not in ("sharegpt", "messages")
    expected = {(row["instruction"], row["input"] if has_input else "", row["output"]) for row in rows}
    candidates = read_candidates(store, shard)
    assert {(item.example.instruction, item.example.input, item.example.output) for item in candidates} == expected


def test_profiles_and_chat_template_lead_to_different_cells_side_by_side(
    tmp_path: Path, pool_file: Path, tiny_model: Path
) -> None:
    for profile in ("released", "plain"):
        run_job(pool_file, tmp_path, tiny_model, run=profile, profile=profile, anchors=3)
    keys = {manifest(tmp_path, run)["references"]["scoring_key"] for run in ("released", "plain")}
    assert {path.name for path in (tmp_path / "cells").iterdir()} == keys and len(keys) == 2
    eligible = {
        run: pd.read_parquet(tmp_path / "runs" / run / "golden.parquet")["anchors"] for run in ("released", "plain")
    }
    assert set(eligible["released"]) == {3}  # its own cell counts there
    assert set(eligible["plain"]) == {2, 3}


def test_a_run_name_is_not_given_to_other_scores(tmp_path: Path, pool_file: Path, tiny_model: Path) -> None:
    run_job(pool_file, tmp_path, tiny_model, run="mine", anchors=2)
    with pytest.raises(UsageError, match=r"run 'mine' exists .*\(anchors: 3 by k-means.*, was 2 by k-means"):
        run_job(pool_file, tmp_path, tiny_model, run="mine", anchors=3)


@pytest.mark.usefixtures("prefect_server")
def test_more_anchors_than_examples_are_refused_and_the_run_is_marked_failed(
    tmp_path: Path, pool_file: Path, tiny_model: Path
) -> None:
    with pytest.raises(InputError, match="anchors=21 is more than the 20 distinct, usable examples"):
        run_flow(pool_file, tmp_path, tiny_model, run="many", anchors=21)
    assert manifest(tmp_path, "many")["state"] == "failed"


@pytest.mark.usefixtures("prefect_server")
def test_a_model_that_returns_no_numbers_fails_the_run_and_names_the_anchor(
    tmp_path: Path, pool_file: Path, tiny_model: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    name = next(key for key in weights if key.endswith("norm.weight"))
    save_file({**weights, name: weights[name] * float("nan")}, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        NuggetsError,
        match="stage 'baseline' failed.*gives 2 of 2 anchors no finite zero-shot log-probability, [0-9a-f]+ for one",
    ):
        run_flow(pool_file, tmp_path / "store", broken, run="nan", anchors=2)
    assert not (tmp_path / "store" / "baselines").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_killed_run_is_shown_as_lost_and_the_same_command_continues_it(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    rows = [{"instruction": f"Repeat {index}.", "input": "", "output": "word " * 100} for index in range(30)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "anchors.json").write_text(json.dumps(rows[:10]))
    store = tmp_path / "store"
    arguments = ["curate", str(tmp_path / "pool.jsonl"), "--store", str(store), "--run", "r", "--racing", "off"]
    arguments += ["--model", str(tiny_model), "--anchor-file", str(tmp_path / "anchors.json"), "--shard-size", "30"]

    def shown_state() -> str:
        return json.loads(cli("show", "r", "--store", store, "--json").stdout)["state"]

    with subprocess.Popen([NUGGETS, *arguments], stderr=subprocess.PIPE, text=True) as process:
        seen = ""
        while "to compute" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        assert shown_state() == "running"
        process.kill()
    with monkeypatch.context() as patched:
        patched.setattr("nuggets.runs.attempts.HEARTBEAT_SECONDS", 0.0)  # instead of waiting for two
        assert shown_state() == "lost"
        assert " lost " in cli("runs", "--store", store).stdout
    assert manifest(store, "r")["state"] == "running"
    again = cli(*arguments)
    assert again.returncode == 0, again.stderr
    assert shown_state() == "complete"


@pytest.mark.usefixtures("prefect_server")
def test_a_run_is_complete_after_its_selection_is_published(
    tmp_path: Path, pool_file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    states: list[str] = []

    def published(*arguments: Any, **options: Any) -> Selection:
        selection = publish_selection(*arguments, **options)
        states.append(manifest(store, "r")["state"])
        return selection

    monkeypatch.setattr(tasks.publish, "publish_selection", published)
    run_flow(pool_file, store, tiny_model, run="r", anchors=2)
    assert (states, manifest(store, "r")["state"]) == (["running"], "complete")


def test_a_pool_that_grows_keeps_its_cells_where_its_anchors_have_a_name(
    tmp_path: Path, pool_file: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture, cli: Cli
) -> None:
    store = tmp_path / "store"
    common = {"store": store, "model": tiny_model, "racing": "off", "anchor_set": "ours"}
    run_job(pool_file, **common, run="first", anchors=5)
    grown = tmp_path / "grown.jsonl"
    new = {"instruction": "Name a river.", "input": "", "output": "The Rhine."}
    grown.write_bytes(pool_file.read_bytes() + json.dumps(new).encode() + b"\n")
    caplog.clear()
    caplog.set_level("INFO", logger="nuggets")
    run_job(grown, **common, run="second")
    assert "embedded" not in caplog.text
    counts = manifest(store, "second")["counts"]
    assert (counts["cells"], counts["cells_found"], counts["cells_computed"]) == (105, 100, 5)
    file = tmp_path / "anchors.csv"
    assert cli("anchors", "first", "--store", store, "--out", file).stdout == f"5 anchors in {file}\n"
    run_job(grown, store, tiny_model, racing="off", run="third", anchor_file=str(file))
    assert manifest(store, "third")["counts"]["cells_computed"] == 0
    with pytest.raises(UsageError, match="anchors=6, but anchor_set='ours' has 5 in this store and never changes"):
        run_job(grown, **common, run="fourth", anchors=6)
