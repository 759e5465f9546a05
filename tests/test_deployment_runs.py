"""A run whose shards are scored by flow runs of a deployment, as on a cluster's work pool. Minutes: `make slow`."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from orchestrated import Api, finish, manifest, stored_cells, wait_for
from selections import selection_path

from deployments.local_stack import LocalStack
from deployments.processes import family
from nuggets.cells.folders import list_blocks
from nuggets.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SCORING = "score-shards/on-demand"


@pytest.fixture
def shared(job: dict[str, Any]) -> dict[str, Any]:
    return {**job, "executor": "deployment", "workers": 2, "dtype": "float32"}


def parts_of(api: Api, run: str) -> list[dict[str, Any]]:
    """The flow runs that a run has started, the first part first."""
    mine = {task["id"] for task in api.task_runs(run)}
    return sorted(
        (part for part in api.runs_of(SCORING) if part["parent_task_run_id"] in mine), key=lambda p: p["name"]
    )


def begin_parts(api: Api, store: Store, job: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """A run whose two parts have both stored something, and have not finished."""
    run = api.start("curate/on-demand", **job)
    wait_for(lambda: len(parts_of(api, run)) == 2, seconds=200)
    wait_for(lambda: len(list_blocks(store, "cells")) >= 2, seconds=200)
    parts = parts_of(api, run)
    assert [part["state"]["type"] for part in parts] == ["RUNNING", "RUNNING"]
    return run, parts


def kill(stack: LocalStack, run: str) -> None:
    """Kill all processes of a flow run, and nothing else of the worker's."""
    for process in family(stack.pids()["worker"]):
        if f"PREFECT__FLOW_RUN_ID={run}".encode() in Path(f"/proc/{process}/environ").read_bytes():
            os.kill(process, signal.SIGKILL)


def test_parts_come_to_what_one_machine_comes_to(
    api: Api, store: Store, job: dict[str, Any], shared: dict[str, Any]
) -> None:
    run = api.start("curate/on-demand", **{**shared, "racing": "on"})
    assert api.await_end(run)["type"] == "COMPLETED", api.log(run)
    parts = parts_of(api, run)
    assert [part["name"] for part in parts] == [f"score part {n} of 2 of r" for n in (0, 1)]
    assert [part["state"]["type"] for part in parts] == ["COMPLETED", "COMPLETED"]
    counts = manifest(store)["counts"]
    assert counts["cells_found"] == 0 and counts["cells_computed"] == len(stored_cells(store)) < counts["cells"]
    alone = api.start("curate/on-demand", **{**job, "racing": "on", "store": f"{store.url}-alone"})
    assert api.await_end(alone)["type"] == "COMPLETED", api.log(alone)
    stores = [store, Store(f"{store.url}-alone")]
    files = [f"{selection_path(one.url, 'r', 'top-fraction-0.1')}/selected.jsonl" for one in stores]
    assert stores[0].read(files[0]) == stores[1].read(files[1])


def test_a_killed_part_fails_the_run_and_a_retry_scores_what_is_missing(
    api: Api, stack: LocalStack, store: Store, shared: dict[str, Any]
) -> None:
    run, parts = begin_parts(api, store, shared)
    kill(stack, parts[1]["id"])
    state = api.await_end(run)
    assert state["type"] == "FAILED"
    assert f"1 of 2 flow runs of {SCORING} did not complete, first: score part 1 of 2 of r: Crashed" in state["message"]
    assert api.state(parts[0]["id"])["type"] == "COMPLETED"
    before = stored_cells(store)
    assert 1200 * 20 // 2 < len(before) < 1200 * 20
    api.set_state(run, "SCHEDULED", "AwaitingRetry")
    finish(api, store, run, before)


def test_the_parts_of_a_killed_run_continue_and_its_retry_waits_for_them(
    api: Api, stack: LocalStack, store: Store, shared: dict[str, Any]
) -> None:
    run, parts = begin_parts(api, store, shared)
    kill(stack, run)
    assert api.await_end(run)["type"] == "CRASHED"
    time.sleep(12)  # Prefect's worker reports a crash twice, seconds apart; no Retry is requested in between
    api.set_state(run, "SCHEDULED", "AwaitingRetry")
    finish(api, store, run, stored_cells(store))
    ours = [part for part in api.runs_of(SCORING) if part["parameters"]["config"]["store"] == store.url]
    assert {part["id"]: part["state"]["type"] for part in ours} == {part["id"]: "COMPLETED" for part in parts}
