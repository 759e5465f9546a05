"""What users do with deployments: against a real server, a real worker and a real S3 server. Minutes: `make slow`."""

import os
import signal
import time
from typing import Any

import pytest
from orchestrated import Api, begin, finish, manifest, stored_cells, wait_for
from selections import selection_path

from deployments.local_stack import LocalStack
from deployments.processes import family
from nuggets.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_schedule_fires_and_a_second_firing_does_not_double_the_work(
    api: Api, store: Store, job: dict[str, Any]
) -> None:
    deployment = api.deployment("curate/nightly")
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    api.client.patch(f"/deployments/{deployment['id']}", json={"parameters": {"config": job}}).raise_for_status()
    often = [{"schedule": {"interval": 5}, "active": True}]
    url = f"/deployments/{deployment['id']}/schedules"
    made = api.client.post(url, json=often).raise_for_status().json()

    def states() -> list[str]:
        return [run["state"]["type"] for run in api.runs_of("curate/nightly")]

    wait_for(lambda: states().count("CANCELLED") >= 2 and states().count("RUNNING") == 1, seconds=200)
    api.client.delete(f"{url}/{made[0]['id']}").raise_for_status()
    (running,) = [run["id"] for run in api.runs_of("curate/nightly") if run["state"]["type"] == "RUNNING"]
    assert api.await_end(running)["type"] == "COMPLETED"
    assert manifest(store)["counts"]["cells_found"] == 0
    assert "COMPLETED" in states() and states().count("COMPLETED") == 1


def test_a_new_cut_from_the_form_takes_seconds_and_computes_nothing(
    api: Api, store: Store, job: dict[str, Any], pools: dict[str, str]
) -> None:
    first = api.start("curate/on-demand", **{**job, "pool": pools["small"]})
    assert api.await_end(first)["type"] == "COMPLETED"
    cells = {path: store.read(path) for path in store.list("cells")}
    start = time.monotonic()
    again = api.start("reselect/on-demand", run="r", store=store.url, threshold=0.5)
    assert api.await_end(again)["type"] == "COMPLETED"
    assert time.monotonic() - start < 60  # most of it until the worker looks, and to import Prefect
    assert {path: store.read(path) for path in store.list("cells")} == cells
    names = {path.split("/")[3] for path in store.list("runs/r/selections")}
    assert names == {"top-fraction-0.1", "threshold-0.5"}
    body = {"flow_runs": {"id": {"any_": [again]}}}

    def tasks() -> set[str]:
        return {run["name"] for run in api.client.post("/task_runs/filter", json=body).json()}

    wait_for(lambda: tasks() == {"undecided candidates of r", "publish r"}, seconds=30)
    artifacts = api.client.post("/artifacts/filter", json=body).json()
    (report,) = [artifact["data"] for artifact in artifacts if artifact["key"] == "selection"]
    folders = [store.uri(selection_path(store.url, "r", name)) for name in ("top-fraction-0.1", "threshold-0.5")]
    assert all(f"| {folder} |" in report for folder in folders)  # the new one beside the old one


def test_the_ui_shows_what_a_run_does_and_how_far_it_is(api: Api, store: Store, job: dict[str, Any]) -> None:
    run = api.start("curate/on-demand", **job)
    of_run = {"flow_runs": {"id": {"any_": [run]}}}

    def progress() -> dict[str, Any]:
        artifacts = api.client.post("/artifacts/filter", json=of_run).json()
        return next((item for item in artifacts if item["key"] == "scoring"), {"data": 0, "description": ""})

    shown = wait_for(lambda: 0 < (found := progress())["data"] < 100 and found, seconds=200)
    assert "cells/s" in shown["description"] and shown["description"].endswith(" left")
    assert api.await_end(run)["type"] == "COMPLETED"
    assert progress()["data"] == 100
    logs = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}

    def lines() -> str:
        return "\n".join(line["message"] for line in api.client.post("/logs/filter", json=logs).json())

    wait_for(lambda: "% of the full table are stored" in lines(), seconds=30)
    assert "pool: 1200 rows, 1200 distinct examples" in lines()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"threshold": 1.4}, "1.4 is greater than or equal to the maximum of 1"),
        ({"threshold": 0.4, "top_k": 3}, "should not be valid"),
        ({}, "should not be valid"),
        ({"top_k": "many"}, "many"),
    ],
    ids=["out of range", "two cuts", "no cut", "not a number"],
)
def test_the_form_refuses_what_is_wrong_before_a_run_is_made(api: Api, config: dict[str, Any], message: str) -> None:
    before = len(api.runs_of("reselect/on-demand"))
    answer = api.try_to_start("reselect/on-demand", run="r", store="s3://x/y", **config)
    assert answer.status_code in (409, 422) and message in answer.text
    assert len(api.runs_of("reselect/on-demand")) == before


def test_a_run_whose_process_is_killed_is_crashed_and_retry_scores_what_is_missing(
    api: Api, stack: LocalStack, store: Store, job: dict[str, Any]
) -> None:
    run = begin(api, store, job)
    (worker, *others) = family(stack.pids()["worker"])
    for process in others:
        os.kill(process, signal.SIGKILL)
    assert api.await_end(run)["type"] == "CRASHED" and worker == stack.pids()["worker"]
    before = stored_cells(store)
    time.sleep(12)  # Prefect's worker reports a crash twice, seconds apart; no Retry is requested in between
    api.set_state(run, "SCHEDULED", "AwaitingRetry")
    finish(api, store, run, before)


def test_a_worker_that_dies_with_its_runs_leaves_none_that_runs_for_ever(
    api: Api, stack: LocalStack, store: Store, job: dict[str, Any]
) -> None:
    run = begin(api, store, job)
    stack.end("worker", signal.SIGKILL)
    before = stored_cells(store)
    assert api.state(run)["type"] == "RUNNING"
    state = api.await_end(run, seconds=200)
    assert state["type"] == "CRASHED" and "no heartbeat" in state["message"]
    stack.start_worker()
    api.set_state(run, "SCHEDULED", "AwaitingRetry")
    finish(api, store, run, before)
