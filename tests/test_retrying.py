"""Tasks that fail: retried where a retry can help, not where it can't, while the others continue."""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import job
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import EXAMPLES
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings

import flows.execution.open_executor
import nuggets.steps.score_cells
import tasks.ingest
import tasks.plan
import tasks.score
from flows.execution.futures import failure
from nuggets.config.configs import CurateConfig
from nuggets.devices.devices import Device
from nuggets.errors import (
    DamagedTable,
    InputError,
    Interrupted,
    NuggetsError,
    OutOfMemory,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from nuggets.examples import Example
from nuggets.steps.plan_round import plan_round
from nuggets.steps.publish import Selection
from nuggets.steps.score_cells import score_unit
from nuggets.store.store import open_store
from tasks.retry_policy import can_help


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (StoreUnavailable("the server is away"), True),
        (StoreError("no permission"), False),
        (DamagedTable("not a table"), False),
        (InputError("no finite log-probability"), False),
        (OutOfMemory("a single demonstration and anchor do not fit"), True),
        (UsageError("threshold=7"), False),
        (Interrupted("stopped on request"), False),
        (NuggetsError("anything"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (ConnectionResetError("reset by peer"), True),
        (httpx.ConnectError("the Prefect server restarts"), True),
        (httpx.ReadTimeout("it has much to do"), True),
        (TimeoutError("stalled"), True),
        (MemoryError(), True),
        (FileNotFoundError("gone"), False),
        (PermissionError("forbidden"), False),
        (NotImplementedError("no such kernel"), False),
        (KeyError("x"), False),
        (TypeError("x"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_trying_again_helps_against_what_may_pass(error: Exception, helps: bool) -> None:
    assert can_help(error) is helps


def test_the_error_of_a_stage_advises_to_run_again_only_where_that_can_help() -> None:
    wrong, lost = InputError("model='m' has no tokenizer: give one"), RuntimeError("CUDA error: device lost.")
    stored = "What was computed is stored"
    assert str(failure("1 of 2 tasks failed", [wrong])) == f"1 of 2 tasks failed, first: {wrong}. {stored}"
    expected = f"2 of 2 tasks failed, first: CUDA error: device lost. {stored}; run again to do the rest"
    assert str(failure("2 of 2 tasks failed", [lost, wrong])) == expected


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (tasks.score.score, tasks.ingest.ingest):
        monkeypatch.setattr(task, "retry_delay_seconds", [0.05, 0.1, 0.2])


@pytest.fixture
def anchor_file(tmp_path: Path) -> Path:
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(EXAMPLES[:6]))
    return path


def configured(pool: Path, store: Path, model: Path, anchors: Path, **options: Any) -> CurateConfig:
    given = {"run": "r", "shard_size": 8, "top_k": 5, "racing": "off"} | options
    return CurateConfig(pool=str(pool), store=str(store), model=str(model), anchor_file=str(anchors), **given)


def run_flow(*arguments: Path, **options: Any) -> Selection:
    from flows.curate import curate

    return curate(configured(*arguments, **options))


def counts(store: Path) -> dict[str, int]:
    return json.loads((store / "runs/r/manifest.json").read_text())["counts"]


class Failing:
    """`score_unit` that fails for one shard the given number of times, and counts how often each was tried."""

    def __init__(self, shard: int, error: Exception, times: int) -> None:
        self.shard, self.error, self.times = shard, error, times
        self.tries: Counter[int] = Counter()
        self.order: list[int] = []  # of shards, as they were tried

    def __call__(self, prepared: Any, unit: Any, anchors_path: str) -> int:
        (shard,) = unit.shards
        self.tries[shard] += 1
        self.order.append(shard)
        if shard == self.shard and self.tries[shard] <= self.times:
            raise self.error
        return score_unit(prepared, unit, anchors_path)


@pytest.mark.usefixtures("prefect_server", "short_pauses")
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), StoreUnavailable("the disk is full")],
    ids=["out of memory", "disk full"],
)
def test_a_shard_that_fails_for_a_while_is_tried_again_and_the_run_ends_well(
    tmp_path: Path,
    pool_file: Path,
    anchor_file: Path,
    tiny_model: Path,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing(1, error, times=2)
    monkeypatch.setattr(tasks.score, "score_unit", failing)
    with caplog.at_level(logging.INFO, "nuggets.progress"):
        assert run_flow(pool_file, tmp_path / "store", tiny_model, anchor_file).kept == 5
    assert failing.tries == {0: 1, 1: 3, 2: 1}
    retries = [record.getMessage() for record in caplog.records if "is retried soon" in record.getMessage()]
    assert retries == [f"score round 0 part 001: 48 cells failed and is retried soon: {error}"] * 2


@pytest.mark.usefixtures("prefect_server", "short_pauses")
def test_a_shard_that_keeps_failing_ends_the_run_by_name_when_all_others_are_done(
    tmp_path: Path, pool_file: Path, anchor_file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(1, RuntimeError("CUDA error: device lost"), times=99)
    monkeypatch.setattr(tasks.score, "score_unit", failing)
    with pytest.raises(NuggetsError, match=r"1 tasks of stage 'score' failed \(shards 1\), first: CUDA error: device"):
        run_flow(pool_file, tmp_path / "store", tiny_model, anchor_file)
    assert failing.tries == {0: 1, 1: 4, 2: 1}
    manifest = json.loads((tmp_path / "store/runs/r/manifest.json").read_text())
    assert manifest["state"] == "failed" and "shards 1" in manifest["message"]

    failing.times = 0
    failing.tries.clear()
    assert run_flow(pool_file, tmp_path / "store", tiny_model, anchor_file).kept == 5
    assert failing.tries == {1: 1} and counts(tmp_path / "store")["cells_computed"] == 8 * 6


@pytest.mark.usefixtures("prefect_server")
def test_other_shards_continue_while_a_shard_waits_for_its_retry(
    tmp_path: Path, pool_file: Path, anchor_file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.score.score, "retry_delay_seconds", [4.0])
    failing = Failing(0, RuntimeError("CUDA error: device lost"), times=1)
    monkeypatch.setattr(tasks.score, "score_unit", failing)
    assert run_flow(pool_file, tmp_path / "store", tiny_model, anchor_file).kept == 5
    assert sorted(failing.order[:-1]) == [0, 1, 2] and failing.order[-1] == 0
    assert tasks.score.tasks_pausing() == 0
    assert counts(tmp_path / "store")["cells_computed"] == 20 * 6


@pytest.mark.usefixtures("prefect_server", "short_pauses")
@pytest.mark.parametrize("error", [InputError("no finite log-probability"), TypeError("a mistake")], ids=type)
def test_an_error_that_no_retry_can_fix_is_not_retried(
    tmp_path: Path,
    pool_file: Path,
    anchor_file: Path,
    tiny_model: Path,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing = Failing(1, error, times=99)
    monkeypatch.setattr(tasks.score, "score_unit", failing)
    with pytest.raises(NuggetsError, match=r"failed \(shards 1\)"):
        run_flow(pool_file, tmp_path / "store", tiny_model, anchor_file)
    assert failing.tries == {0: 1, 1: 1, 2: 1}


@pytest.mark.usefixtures("prefect_server")
def test_a_shard_that_takes_long_is_waited_for_and_not_asked_for_again_and_again(
    tmp_path: Path, pool_file: Path, anchor_file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[int] = []
    planned_again = threading.Event()

    def counting(*arguments: Any, number: int, **options: Any) -> Any:
        plans.append(number)
        if len(plans) > 1:
            planned_again.set()
        return plan_round(*arguments, number=number, **options)

    def slow(prepared: Any, unit: Any, anchors_path: str) -> int:
        if 0 in unit.shards:
            assert planned_again.wait(60)  # the other shards are done
            time.sleep(1)  # a plan takes milliseconds: superfluous ones would be made now
        return score_unit(prepared, unit, anchors_path)

    monkeypatch.setattr(tasks.plan, "plan_round", counting)
    monkeypatch.setattr(tasks.score, "score_unit", slow)
    # Two workers that are threads of this process: one of them has nothing to do.
    monkeypatch.setattr(tasks.score, "run_on_device", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(
        flows.execution.open_executor, "find_devices", lambda *_, **__: (Device("one", {}), Device("two", {}))
    )
    assert run_flow(pool_file, tmp_path / "store", tiny_model, anchor_file).kept == 5
    assert len(plans) <= 1 + 3  # at first, and when one of the three shards is done


@pytest.mark.usefixtures("prefect_server")
def test_devices_that_are_not_here_leave_a_run_as_it_ended(
    tmp_path: Path, pool_file: Path, anchor_file: Path, tiny_model: Path
) -> None:
    job.curate(configured(pool_file, tmp_path / "store", tiny_model, anchor_file))
    with pytest.raises(UsageError, match="devices=7: there is no GPU 7"):
        run_flow(pool_file, tmp_path / "store", tiny_model, anchor_file, devices="7")
    assert json.loads((tmp_path / "store/runs/r/manifest.json").read_text())["state"] == "complete"


@pytest.mark.usefixtures("prefect_server")
def test_prefect_keeps_no_result_that_a_retry_would_use_in_place_of_the_store(
    tmp_path: Path, pool_file: Path, anchor_file: Path, tiny_model: Path
) -> None:
    kept = tmp_path / "results"
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True, PREFECT_LOCAL_STORAGE_PATH: kept}):
        run_flow(pool_file, tmp_path / "store", tiny_model, anchor_file)
    assert [path for path in kept.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("prefect_server", "short_pauses")
def test_bad_parameters_fail_at_once(tmp_path: Path, pool_file: Path, anchor_file: Path, tiny_model: Path) -> None:
    job.curate(configured(pool_file, tmp_path / "store", tiny_model, anchor_file))
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(EXAMPLES[0]) + "\n")
    with pytest.raises(UsageError, match="exists with other inputs"):
        run_flow(other, tmp_path / "store", tiny_model, anchor_file)


class Poisoned:
    """A model that gives no number for one candidate's demonstration."""

    def __init__(self, model: Any, poisoned: set[tuple[int, ...]]) -> None:
        self.model, self.poisoned = model, poisoned
        self.path = model.path

    def log_prob_sums(self, prefixes: Any, continuations: Any, **options: Any) -> Iterator[Any]:
        known = [tuple(prefix) for prefix in prefixes]
        rows = self.model.log_prob_sums(known, continuations, **options)
        for prefix, row in zip(known, rows, strict=True):
            yield row * np.nan if prefix in self.poisoned else row


@pytest.mark.parametrize("racing", ["on", "off"])
def test_a_candidate_without_finite_numbers_is_recorded_as_unscorable_counted_and_named(
    tmp_path: Path, pool_file: Path, anchor_file: Path, tiny_model: Path, racing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nuggets.steps.publish import read_report

    poisoned: set[tuple[int, ...]] = set()
    open_model, open_profile = nuggets.steps.score_cells.open_model, nuggets.steps.score_cells.open_profile

    def poison(setup: Any) -> Poisoned:
        demonstration = open_profile(setup).demonstration
        example = EXAMPLES[12]
        poisoned.add(demonstration(Example(example["instruction"], example["input"], example["output"])).ids)
        return Poisoned(open_model(setup), poisoned)

    monkeypatch.setattr(nuggets.steps.score_cells, "open_model", poison)
    store = tmp_path / "store"
    options: dict[str, Any] = {"run": "r", "shard_size": 8, "top_k": 20, "racing": racing, "store": str(store)}
    options |= {"pool": str(pool_file), "model": str(tiny_model), "anchor_file": str(anchor_file)}
    with pytest.raises(NuggetsError, match="max_bad_candidates"):
        job.curate(CurateConfig(**options))
    selection = job.curate(CurateConfig(**options, max_bad_candidates=1))
    assert (selection.candidates, selection.kept) == (20, 19)
    scores = pd.read_parquet(Path(selection.folder) / "scores.parquet").set_index("candidate_row")
    assert scores["golden_score"].isna().to_dict() == {row: row == 12 for row in scores.index}
    assert not scores.loc[12, "kept"] and np.isnan(scores.loc[12, "score_high"])
    assert scores["unscorable"].dropna().to_dict() == {12: "no_finite_number"}
    what = "candidates for which the model gives no finite number, never kept"
    named = f"| {what} | 1 | {scores.loc[12, 'candidate_id']}; column unscorable of scores.parquet |"
    assert named in read_report(open_store(str(store)), selection)

    again = job.curate(CurateConfig(**{**options, "run": "again"}, max_bad_candidates=1))
    assert again.kept == 19
    found = json.loads((store / "runs/again/manifest.json").read_text())["counts"]
    assert found["cells_computed"] == 0  # it is not retried
    monkeypatch.undo()
    with pytest.raises(NuggetsError, match="failed|max_bad_candidates"):
        other = [{**EXAMPLES[0], "instruction": f"{number}"} for number in range(3)]
        (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
        monkeypatch.setattr(nuggets.steps.score_cells, "open_model", lambda setup: EveryBad(open_model(setup)))
        wanted = {**options, "run": "bad", "pool": str(tmp_path / "other.jsonl"), "top_k": 2}
        job.curate(CurateConfig(**wanted, max_bad_candidates=2))


class EveryBad:
    """A model that gives no number for any pair."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.path = model.path

    def log_prob_sums(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        for row in self.model.log_prob_sums(*arguments, **options):
            yield row * np.nan
