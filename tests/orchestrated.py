"""What tests of deployments share: the server's API as the UI uses it, and what a run has left in its store."""

import time
from collections.abc import Callable
from typing import Any

import httpx

from nuggets.cells.folders import list_blocks, read_folder
from nuggets.store.store import Store

OVER = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


class Patient(httpx.HTTPTransport):
    """Asks again when the server's database was busy, as Prefect's own client does."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for pause in (0.2, 0.5, 1, 2, 4):
            answer = super().handle_request(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            answer.close()
            time.sleep(pause)
        return super().handle_request(request)


class Api:
    """The server's REST API, as the UI uses it."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=60, transport=Patient())

    def deployment(self, name: str) -> dict[str, Any]:
        return self.client.get(f"/deployments/name/{name}").raise_for_status().json()

    def start(self, name: str, *, environment: dict[str, str] | None = None, **config: Any) -> str:
        """Start a run as the form does, with these variables besides the deployment's; its id."""
        return self.try_to_start(name, environment=environment, **config).raise_for_status().json()["id"]

    def try_to_start(self, name: str, *, environment: dict[str, str] | None = None, **config: Any) -> httpx.Response:
        body: dict[str, Any] = {"parameters": {"config": config}, "state": {"type": "SCHEDULED", "name": "Scheduled"}}
        if environment:
            body["job_variables"] = {"env": environment}
        return self.client.post(f"/deployments/{self.deployment(name)['id']}/create_flow_run", json=body)

    def state(self, run: str) -> dict[str, Any]:
        return self.client.get(f"/flow_runs/{run}").raise_for_status().json()["state"]

    def history(self, run: str) -> list[tuple[str, str, str]]:
        """Every state that a run was in, and why."""
        states = self.client.get("/flow_run_states/", params={"flow_run_id": run}).raise_for_status().json()
        return [(state["timestamp"], state["name"], state["message"]) for state in states]

    def set_state(self, run: str, kind: str, name: str) -> dict[str, Any]:
        """What the buttons Cancel and Retry do; neither forces anything."""
        body = {"state": {"type": kind, "name": name}, "force": False}
        answer = self.client.post(f"/flow_runs/{run}/set_state", json=body).raise_for_status().json()
        assert answer["status"] == "ACCEPT", answer
        return answer

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        body = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}, "sort": "START_TIME_DESC"}
        return self.client.post("/flow_runs/filter", json=body).raise_for_status().json()

    def task_runs(self, run: str) -> list[dict[str, Any]]:
        body = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200}
        return self.client.post("/task_runs/filter", json=body).raise_for_status().json()

    def task_states(self, task_run: str) -> list[dict[str, Any]]:
        """Every state that a task run was in, the first one first."""
        found = self.client.get("/task_run_states/", params={"task_run_id": task_run}).raise_for_status().json()
        return sorted(found, key=lambda state: state["timestamp"])

    def log(self, run: str) -> str:
        """The log lines of a run and its tasks."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        lines: list[str] = []
        while True:
            page = self.client.post("/logs/filter", json={**body, "offset": len(lines)}).raise_for_status().json()
            lines += [line["message"] for line in page]
            if len(page) < body["limit"]:
                return "\n".join(lines)

    def await_end(self, run: str, *, seconds: float = 300) -> dict[str, Any]:
        return wait_for(lambda: (state := self.state(run))["type"] in OVER and state, seconds=seconds)


def wait_for(happens: Callable[[], Any], *, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := happens():
            return found
        time.sleep(0.3)
    raise AssertionError(f"it did not happen within {seconds} seconds")


def manifest(store: Store) -> dict[str, Any]:
    return store.read_json("runs/r/manifest.json")


def stored_cells(store: Store) -> set[tuple[str, str]]:
    """Candidate and anchor of every cell that is there."""
    return {
        (candidate, anchor)
        for block in read_folder(store, "cells")
        for candidate, row in zip(block.candidate_ids, block.values, strict=True)
        for anchor, value in zip(block.anchor_ids, row, strict=True)
        if value == value
    }


def begin(api: Api, store: Store, job: dict[str, Any]) -> str:
    """A run of which some cells are stored and most are still to come."""
    run = api.start("curate/on-demand", **job)
    wait_for(lambda: list_blocks(store, "cells"), seconds=200)
    assert api.state(run)["type"] == "RUNNING"
    return run


def finish(api: Api, store: Store, run: str, before: set[tuple[str, str]]) -> None:
    """A run that was broken off and is retried computes what is missing, and nothing else."""
    state = api.await_end(run)
    assert state["type"] == "COMPLETED", api.history(run)
    counts = manifest(store)["counts"]
    assert manifest(store)["state"] == "complete" and counts["cells"] == 1200 * 20
    assert counts["cells_found"] >= len(before) > 0
    assert counts["cells_found"] + counts["cells_computed"] == counts["cells"] == len(stored_cells(store))
