"""Runs that are stopped from outside while they score, and what each leaves behind."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import httpx
from conftest import EXAMPLES
from orchestrated import OVER, Api, stored_cells, wait_for
from proc_files import environment_of, running_command, server_of
from terminals import InTerminal

from benchmarks.noted import noted_rows
from deployments.processes import family
from nuggets.examples import Example, example_id
from nuggets.store.store import Store

CANDIDATES = 600
SECONDS = 0.5  # a candidate; a run would take five minutes
END_SECONDS = 60  # a stopped run has ended long before


class Way(StrEnum):
    """A way to stop a run. Cancel in the UI is the request of CANCELLED."""

    CTRL_C = "Ctrl-C"
    SIGTERM = "SIGTERM"
    CLOSED_TERMINAL = "closed terminal"
    CANCELLED = "cancelled"
    DELETED = "flow run deleted"


@dataclass(frozen=True)
class Outcome:
    """What a stopped run has left behind."""

    exit_code: int | None  # of the process in the terminal; None if it runs
    output: str
    run: str  # the state in the manifest
    flow_run: str | None  # the state in Prefect; None if it is deleted
    parts: list[str]  # states of the flow runs that score its shards
    computed: set[str]  # candidates
    stored: set[str]
    still_computing: bool
    left_running: list[str]  # processes of the run


@dataclass
class StoppedRun:
    """A run of a pool that no other run has, so that its candidates tell its rows from those of other runs."""

    way: Way
    folder: Path
    notes: Path  # what processes of all runs note
    terminal: InTerminal | None = None  # of the command, or of the worker
    is_command: bool = False
    stops_part: bool = False  # whether the request is for the flow run that scores its shards
    api: Api | None = None
    flow_run: str = ""
    database: Path | None = None  # of a server that ends with the run
    _processes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        rows = [
            {**row, "instruction": f"{row['instruction']} ({self.folder.parent.name}, {self.way}, {number})"}
            for number in range(CANDIDATES // len(EXAMPLES))
            for row in EXAMPLES
        ]
        self.pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.ids = {example_id(Example(row["instruction"], row["input"], row["output"])) for row in rows}

    @property
    def pool(self) -> Path:
        return self.folder / "pool.jsonl"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def computed(self) -> set[str]:
        return {row.candidate for row in noted_rows(self.notes)} & self.ids

    def await_scoring(self) -> None:
        """Return when candidates have been computed, and Prefect has the flow run."""

        def is_scoring() -> bool:
            if self.terminal is not None and self.terminal.process.poll() is not None:
                raise AssertionError(f"ended before it scored: {self.terminal.output}")
            return len(self.computed()) >= 2

        wait_for(is_scoring, seconds=400)
        self.flow_run = self.flow_run or wait_for(self._find_flow_run, seconds=30)
        self._processes = self._family()

    def stop(self) -> None:
        if self.way is Way.CTRL_C:
            self.terminal.type_ctrl_c()
        elif self.way is Way.SIGTERM:
            self.terminal.process.send_signal(signal.SIGTERM)
        elif self.way is Way.CLOSED_TERMINAL:
            self.terminal.close()
        elif self.way is Way.CANCELLED:
            self.api.set_state(self._requested(), "CANCELLING", "Cancelling")
        else:
            deleted = f"/flow_runs/{self._requested()}"
            wait_for(lambda: self.api.client.delete(deleted).is_success, seconds=60)  # a busy database refuses

    def await_end(self, *, of_process: bool) -> None:
        """Wait for the process in the terminal, or where it goes on for the processes and the state of the run."""
        end = time.monotonic() + END_SECONDS
        if of_process:
            with suppress(subprocess.TimeoutExpired):
                self.terminal.process.wait(timeout=END_SECONDS)
        while time.monotonic() < end:
            with suppress(httpx.HTTPError):  # a busy server
                if self._has_ended():
                    return
            time.sleep(0.5)

    def outcome(self) -> Outcome:
        computed = self.computed()
        time.sleep(2)
        return Outcome(
            exit_code=self.terminal.process.poll() if self.terminal else None,
            output=self.terminal.output if self.terminal else "",
            run=json.loads((self.store / "runs/r/manifest.json").read_text())["state"],
            flow_run=self._state(),
            parts=list(self._parts().values()),
            computed=computed,
            stored={candidate for candidate, _ in stored_cells(Store(str(self.store)))},
            still_computing=self.computed() != computed,
            left_running=[command for pid in self._processes if (command := running_command(pid))],
        )

    def kill(self) -> None:
        """End what a failed test leaves running."""
        for pid in self._processes or self._family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _has_ended(self) -> bool:
        are_over = all(state in OVER for state in [self._state() or "COMPLETED", *self._parts().values()])
        return are_over and not any(map(running_command, self._processes))

    def _family(self) -> list[int]:
        """The processes of this run: those of its command, or the one that a worker has started for its flow run."""
        if self.is_command:
            return family(self.terminal.process.pid)
        mark = f"PREFECT__FLOW_RUN_ID={self.flow_run}".encode()
        return [pid for pid in family(os.getpid()) if self.flow_run and mark in environment_of(pid)]

    def _find_flow_run(self) -> str:
        if self.api is None:
            self.api = Api(server_of(self.terminal.process.pid))
        return next(iter(self._flow_runs("curate", str(self.pool))), "")

    def _parts(self) -> dict[str, str]:
        """The flow runs that score its shards, with their states."""
        return {} if self.database is not None else self._flow_runs("score-shards", str(self.store))

    def _requested(self) -> str:
        """The flow run that a request is for."""
        return next(iter(self._parts())) if self.stops_part else self.flow_run

    def _flow_runs(self, flow: str, parameter: str) -> dict[str, str]:
        runs = self.api.client.post("/flow_runs/filter", json={"flows": {"name": {"any_": [flow]}}}).raise_for_status()
        return {run["id"]: run["state_type"] for run in runs.json() if parameter in json.dumps(run["parameters"])}

    def _state(self) -> str | None:
        """The state of the flow run; None if it is deleted."""
        if self.database is not None:
            with closing(sqlite3.connect(self.database)) as database:
                query = "SELECT state_type FROM flow_run WHERE id = ?"
                row = database.execute(query, [self.flow_run]).fetchone()
                return row[0] if row else None
        answer = self.api.client.get(f"/flow_runs/{self.flow_run}")
        return None if answer.status_code == 404 else answer.json()["state"]["type"]


def stop_all(runs: Sequence[StoppedRun], *, ends_process: Callable[[StoppedRun], bool]) -> dict[Way, Outcome]:
    """Stop runs that were started together, because starting takes most of the time; what each leaves behind."""
    try:
        for run in runs:
            run.await_scoring()
        for run in reversed(runs):  # requests first, while the server is not busy with the ends of other runs
            run.stop()
        for run in runs:
            run.await_end(of_process=ends_process(run))
        return {run.way: run.outcome() for run in runs}
    finally:
        for run in runs:
            run.kill()
