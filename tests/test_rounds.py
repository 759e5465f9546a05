"""Races with a real (tiny) language model: rounds, what they leave in the store, and how later runs continue them."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import job
import pandas as pd
import pytest
from conftest import EXAMPLES
from orchestrated import wait_for
from selections import selection_path

import nuggets.steps.plan_round
import tasks.score
from nuggets.cells.blocks import CellBlock, read_block, write_block
from nuggets.config.configs import CurateConfig, ReselectConfig
from nuggets.devices.devices import Device
from nuggets.errors import InputError, NuggetsError, UsageError
from nuggets.racing.next_round import next_round
from nuggets.runs.manifest import RunState, read_run, start_attempt
from nuggets.steps.export import export_cells
from nuggets.steps.publish import Selection
from nuggets.steps.score_cells import score_unit
from nuggets.store.store import open_store

NUGGETS = str(Path(sys.executable).with_name("nuggets"))
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wide_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty examples, so that a race has candidates to drop."""
    rows = [
        {**row, "instruction": f"{row['instruction'][:-1]}, {how}."}
        for row in EXAMPLES
        for how in ("please", "in one line", "as you would for a child of eight")
    ]
    path = tmp_path_factory.mktemp("pools") / "wide.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def anchor_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All twenty examples as anchors."""
    path = tmp_path_factory.mktemp("anchors") / "anchors.json"
    path.write_text(json.dumps(EXAMPLES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory, wide_pool: Path, anchor_file: Path, tiny_model: Path) -> Selection:
    """The wide pool raced for its best 10 %. All tests share its store: copy it to change it."""
    return job.curate(configured(wide_pool, tmp_path_factory.mktemp("raced"), tiny_model, anchor_file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, wide_pool: Path, anchor_file: Path, tiny_model: Path) -> Selection:
    """The same with every cell computed."""
    return job.curate(configured(wide_pool, tmp_path_factory.mktemp("whole"), tiny_model, anchor_file, racing="off"))


def configured(pool: Path, store: Path, model: Path, anchors: Path, **options: Any) -> CurateConfig:
    given = {"run": "r", "shard_size": 16, "top_fraction": 0.1} | options
    return CurateConfig(pool=str(pool), store=str(store), model=str(model), anchor_file=str(anchors), **given)


def store_of(selection: Selection) -> Path:
    return Path(selection.folder).parents[4]


def copied(selection: Selection, folder: Path) -> Path:
    """A copy of the store that holds the selection."""
    return Path(shutil.copytree(store_of(selection), folder / "store"))


def curate_command(pool: Path, store: Path, model: Path, anchors: Path) -> list[str]:
    """The command line for `configured`."""
    command = [NUGGETS, "curate", str(pool), "--store", str(store), "--run", "r", "--model", str(model)]
    return [*command, "--anchor-file", str(anchors), "--shard-size", "16", "--top-fraction", "0.1"]


def cut_again(store: Path, **cut: Any) -> Selection:
    return job.reselect(ReselectConfig(run="r", store=str(store), **cut))


def chosen(selection: Selection) -> list[tuple[str, float, int]]:
    lines = (Path(selection.folder) / "selected.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["example_id"], row["golden_score"], row["rank"]) for row in map(json.loads, lines)]


def stored_cells(store: Path) -> pd.DataFrame:
    export_cells(open_store(str(store)), "r", store / "cells.parquet")
    return pd.read_parquet(store / "cells.parquet")


def counts(store: Path, run: str = "r") -> dict[str, int]:
    return json.loads((store / "runs" / run / "manifest.json").read_text())["counts"]


def test_a_race_keeps_what_the_full_table_keeps_in_its_order_and_computes_less(
    tmp_path: Path, raced: Selection, whole: Selection
) -> None:
    assert chosen(raced) == chosen(whole) and len(chosen(raced)) == 6
    found = counts(store_of(raced))
    assert counts(store_of(whole))["cells_computed"] == found["cells"] == 1200
    assert found["cells_computed"] == len(stored_cells(copied(raced, tmp_path))) < 1000
    assert found["rounds"] > 3

    scores = pd.read_parquet(Path(raced.folder) / "scores.parquet").set_index("candidate_id")
    truth = pd.read_parquet(Path(whole.folder) / "scores.parquet").set_index("candidate_id")["golden_score"]
    complete = scores["cells"] == scores["anchors"]
    assert complete[scores["kept"]].all() and not complete.all()
    assert scores["golden_score"].isna().equals(~complete) and scores["mean_gain"].isna().equals(~complete)
    assert (scores["score_low"] <= truth).all() and (truth <= scores["score_high"]).all()

    report = (Path(raced.folder) / "report.md").read_text()
    assert "## Cells per candidate" in report and " to " in report
    by_cells = json.loads((Path(raced.folder) / "manifest.json").read_text())["candidates_by_cells"]
    assert {int(cells): count for cells, count in by_cells.items()} == scores["cells"].value_counts().to_dict()


def test_a_stricter_cut_computes_nothing_and_a_looser_one_continues_the_race(
    tmp_path: Path, raced: Selection, wide_pool: Path, anchor_file: Path, tiny_model: Path
) -> None:
    store = copied(raced, tmp_path)
    before = stored_cells(store)

    cut_again(store, top_k=2)
    pd.testing.assert_frame_equal(stored_cells(store), before)

    looser = cut_again(store, top_fraction=0.4)
    after = stored_cells(store)
    assert len(before) < len(after) < 1200
    found = counts(store)
    assert (found["cells_found"], found["cells_computed"]) == (len(before), len(after) - len(before))
    assert found["cells"] == 1200 and found["rounds"] > 0
    pair = ["candidate_id", "anchor_id"]
    pd.testing.assert_frame_equal(after.merge(before[pair], on=pair), before, check_like=True)

    threshold = cut_again(store, threshold=0.45)
    kept = [chosen(looser), chosen(threshold)]
    job.curate(configured(wide_pool, store, tiny_model, anchor_file, racing="off"))
    assert len(stored_cells(store)) == 1200
    first = pd.read_parquet(store / selection_path(store, "r", "top-fraction-0.1") / "scores.parquet")
    assert first["golden_score"].notna().all()  # published again, with every score
    assert [chosen(cut_again(store, top_fraction=0.4)), chosen(cut_again(store, threshold=0.45))] == kept


@pytest.mark.usefixtures("prefect_server")
def test_the_command_continues_a_race_for_a_looser_cut(tmp_path: Path, raced: Selection, cli: Cli) -> None:
    done = cli("reselect", "r", "--store", copied(raced, tmp_path), "--top-fraction", 0.5)
    assert done.returncode == 0, done.stderr
    assert "candidates lack cells that this cut needs; scoring continues from the stored cells" in done.stderr
    assert "run r, cut best 50 %: kept 30 of 60" in done.stdout


def test_a_run_whose_model_has_changed_is_not_continued(
    tmp_path: Path, wide_pool: Path, anchor_file: Path, tiny_model: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    job.curate(configured(wide_pool, tmp_path / "store", model, anchor_file, top_fraction=0.05))
    weights = load_file(model / "model.safetensors")
    name = next(key for key in weights if key.endswith("norm.weight"))
    save_file({**weights, name: weights[name] * 1.5}, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="cells of two kinds must not be mixed; start a new run with nuggets curate"):
        cut_again(tmp_path / "store", top_fraction=0.5)


@pytest.mark.usefixtures("prefect_server")
def test_a_failed_reselect_is_recorded_in_the_manifest_and_can_be_continued(
    tmp_path: Path, raced: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.reselect import reselect

    store = copied(raced, tmp_path)
    looser = ReselectConfig(run="r", store=str(store), top_fraction=0.5)

    def failing(*_: Any) -> int:
        raise InputError("the model gives no number")

    with monkeypatch.context() as patched:
        patched.setattr(tasks.score, "score_unit", failing)
        with pytest.raises(NuggetsError, match="the model gives no number"):
            reselect(looser)
    run = read_run(open_store(str(store)), "r")
    assert run.state is RunState.FAILED and "the model gives no number" in run.message
    assert reselect(looser).kept == 30
    run = read_run(open_store(str(store)), "r")
    assert (run.state, run.message) == (RunState.COMPLETE, "")


@pytest.mark.usefixtures("prefect_server")
def test_a_reselect_leaves_the_state_of_a_run_to_the_flow_that_works_on_it(tmp_path: Path, raced: Selection) -> None:
    from flows.reselect import reselect

    store = open_store(str(copied(raced, tmp_path)))
    running = start_attempt(store, read_run(store, "r"))
    assert reselect(ReselectConfig(run="r", store=store.url, top_fraction=0.5)).kept == 30
    after = read_run(store, "r")
    assert (after.state, after.attempt, after.message) == (running.state, running.attempt, running.message)


@pytest.mark.usefixtures("prefect_server")
def test_rounds_and_prunes_are_tasks_of_the_run_which_selects_what_the_steps_select(
    tmp_path: Path, raced: Selection, wide_pool: Path, anchor_file: Path, tiny_model: Path
) -> None:
    from prefect.client.orchestration import get_client

    from flows.curate import curate

    assert chosen(curate(configured(wide_pool, tmp_path, tiny_model, anchor_file))) == chosen(raced)
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(limit=1, sort="START_TIME_DESC")[0]
        body = {"flow_runs": {"id": {"any_": [str(run.id)]}}, "limit": 200}

        def completed() -> set[str]:
            answer = client.request("POST", "/task_runs/filter", json=body).json()
            return {task["name"] for task in answer if task["state_type"] == "COMPLETED"}

        # The server stores what tasks report a second later.
        wait_for(lambda: any(name.startswith("prune before round 3") for name in completed()), seconds=30)
        names = completed()
    assert {f"prune before round {number}" for number in range(4)} <= names
    assert any(name.startswith("score round 0 part 000: ") for name in names)
    assert any(name.startswith("score round 3 part ") for name in names)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_round_does_not_wait_for_a_slow_shard(
    tmp_path: Path,
    raced: Selection,
    wide_pool: Path,
    anchor_file: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import flows.execution.open_executor
    from flows.curate import curate

    others_rounds: list[int] = []  # while the slow shard is being scored
    slow, over = threading.Event(), threading.Event()

    def stalling(prepared: Any, unit: Any, anchors_path: str) -> int:
        if 0 in unit.shards and unit.round >= 2 and not slow.is_set():
            slow.set()
            end = time.monotonic() + 60
            while len(set(others_rounds)) < 2 and time.monotonic() < end:  # until others are some rounds further
                time.sleep(0.05)
            over.set()
        elif slow.is_set() and not over.is_set():
            others_rounds.append(unit.round)
        return score_unit(prepared, unit, anchors_path)

    monkeypatch.setattr(tasks.score, "score_unit", stalling)
    # Two workers that are threads of this process, so that they can be made to wait for each other.
    monkeypatch.setattr(tasks.score, "run_on_device", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(
        flows.execution.open_executor, "find_devices", lambda *_, **__: (Device("one", {}), Device("two", {}))
    )
    assert chosen(curate(configured(wide_pool, tmp_path / "two", tiny_model, anchor_file))) == chosen(raced)
    assert over.is_set() and len(set(others_rounds)) > 1


def test_new_anchors_and_a_second_pool_compute_just_the_missing_cells(
    tmp_path: Path, wide_pool: Path, anchor_file: Path, tiny_model: Path
) -> None:
    store = tmp_path / "store"
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(EXAMPLES[:12]))
    job.curate(configured(wide_pool, store, tiny_model, fewer, run="fewer", racing="off"))
    job.curate(configured(wide_pool, store, tiny_model, anchor_file, racing="off"))
    found = counts(store)
    assert (found["cells_found"], found["cells_computed"]) == (60 * 12, 60 * 8)
    second = tmp_path / "second.jsonl"
    second.write_text("".join(wide_pool.read_text().splitlines(keepends=True)[:30]) + json.dumps(EXAMPLES[0]) + "\n")
    job.curate(configured(second, store, tiny_model, anchor_file, run="second", racing="off", shard_size=5))
    found = counts(store, "second")
    assert (found["cells"], found["cells_found"], found["cells_computed"]) == (31 * 20, 30 * 20, 20)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_two_runs_at_once_come_to_the_same_selection(
    tmp_path: Path, raced: Selection, wide_pool: Path, anchor_file: Path, tiny_model: Path
) -> None:
    store = tmp_path / "store"
    command = curate_command(wide_pool, store, tiny_model, anchor_file)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    together = store / selection_path(store, "r", "top-fraction-0.1") / "selected.jsonl"
    assert together.read_bytes() == (Path(raced.folder) / "selected.jsonl").read_bytes()


@pytest.mark.usefixtures("prefect_server")
def test_a_race_continues_when_another_run_stores_the_chosen_cells_first(
    tmp_path: Path,
    raced: Selection,
    whole: Selection,
    wide_pool: Path,
    anchor_file: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.curate import curate

    store, stored_by_other = open_store(str(tmp_path / "store")), open_store(str(store_of(whole)))
    overtaken: list[int] = []

    def overtaken_next_round(*arguments: Any, round_number: int, **options: Any) -> Any:
        """The other run stores all cells of the chosen candidates after they were counted."""
        race = next_round(*arguments, round_number=round_number, **options)
        if len(overtaken) < 2:
            overtaken.append(round_number)
            again = next_round(*arguments, round_number=round_number, **options)
            for choice in again.choices:
                rows = choice.cells.any(axis=1)
                ids = choice.shard.candidate_ids.to_pylist()
                for path in stored_by_other.list("cells", suffix=".parquet"):
                    block = read_block(stored_by_other, path)
                    assert block is not None
                    names = {key for key, is_chosen in zip(ids, rows, strict=True) if is_chosen}
                    kept = [row for row, key in enumerate(block.candidate_ids) if key in names]
                    if kept:
                        chosen_ids = tuple(block.candidate_ids[row] for row in kept)
                        values = block.values[kept]
                        write_block(store, path.rpartition("/")[0], CellBlock(chosen_ids, block.anchor_ids, values))
        return race

    monkeypatch.setattr(nuggets.steps.plan_round, "next_round", overtaken_next_round)
    config = configured(wide_pool, tmp_path / "store", tiny_model, anchor_file)
    assert chosen(curate(config)) == chosen(raced)
    assert len(overtaken) == 2 and counts(tmp_path / "store")["cells_computed"] > 0


def test_a_raised_scoring_version_begins_new_cells_and_leaves_the_old_ones_readable(
    tmp_path: Path, pool_file: Path, anchor_file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    job.curate(configured(pool_file, store, tiny_model, anchor_file, top_fraction=0.05))
    before = stored_cells(store)
    monkeypatch.setattr("nuggets.store.addresses.SCORING_VERSION", 1)
    pd.testing.assert_frame_equal(stored_cells(store), before)
    assert cut_again(store, top_k=1).kept == 1
    with pytest.raises(UsageError, match="this version of nuggets give .*: cells of two kinds must not be mixed"):
        cut_again(store, top_k=15)
    job.curate(configured(pool_file, store, tiny_model, anchor_file, run="new", top_fraction=0.05))
    assert counts(store, "new")["cells_found"] == 0 and len(list((store / "cells").iterdir())) == 2


def test_a_damaged_block_is_computed_again(
    tmp_path: Path,
    whole: Selection,
    wide_pool: Path,
    anchor_file: Path,
    tiny_model: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = copied(whole, tmp_path)
    blocks = sorted(store.glob("cells/*/*/*.parquet"))
    blocks[0].write_bytes(blocks[0].read_bytes()[:-100])
    again = store / selection_path(store, "r", "top-fraction-0.1") / "selected.jsonl"
    again.unlink()
    job.curate(configured(wide_pool, store, tiny_model, anchor_file, racing="off"))
    assert again.read_bytes() == (Path(whole.folder) / "selected.jsonl").read_bytes()
    assert f"{blocks[0]} is damaged" in caplog.text and "moved to" in caplog.text
    assert 0 < counts(store)["cells_computed"] < 1200
    assert [path.name for path in store.glob("damaged/cells/*/*/*")] == [blocks[0].name]


def test_gc_sweeps_what_killed_writers_left_and_loses_no_cell(tmp_path: Path, raced: Selection, cli: Cli) -> None:
    store = copied(raced, tmp_path)
    before = stored_cells(store)
    folder = next(store.glob("cells/*/*"))
    (folder / ".pending-abc").write_bytes(b"half a block")
    (store / "cells" / "notes.txt").write_text("somebody's")

    def sweep(*options: str) -> str:
        done = cli("gc", "--store", store, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert sweep("--dry-run").startswith("0 files of killed writers, ")  # it is young: its writer may live
    assert sweep("--hours", "0", "--dry-run").startswith("1 file of killed writers, ")
    assert (folder / ".pending-abc").exists()
    sweep("--hours", "0")
    assert sweep("--hours", "0") == (
        "0 files of killed writers, 0 work lists of ended runs, 0 joined files of notes on prompts, "
        "0 folders with several blocks, 0 damaged blocks\n"
    )
    assert (store / "cells" / "notes.txt").read_text() == "somebody's"
    pd.testing.assert_frame_equal(stored_cells(store), before)
