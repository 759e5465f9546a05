"""Where a run can be when it is stopped: each function starts one run for each way, and all of them at once."""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters import BIN, QUIET_RAY, dask, ray
from orchestrated import Api, wait_for
from stopped_runs import SECONDS, StoppedRun, Way
from terminals import InTerminal, start_in_terminal

from benchmarks.noted import noting_environment

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = (Way.CTRL_C, Way.SIGTERM, Way.CLOSED_TERMINAL)
REQUESTS = (Way.CANCELLED, Way.DELETED)
_FLOWS = {"curate": "flows.curate.curate", "score-shards": "flows.score_shards.score_shards"}


@dataclass(frozen=True)
class Given:
    """What all runs need."""

    folder: Path
    model: Path
    anchors: Path
    server: str
    ways: tuple[Way, ...]

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def environment(self) -> dict[str, str]:
        environment = noting_environment(self.notes, commit=4, pause=SECONDS) | QUIET_RAY
        path = os.pathsep.join([environment["PYTHONPATH"], str(ROOT)])
        return environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "2"}

    @property
    def runs(self) -> list[StoppedRun]:
        return [StoppedRun(way, self.folder / way.name, self.notes, api=Api(self.server)) for way in self.ways]

    def config(self, run: StoppedRun) -> dict[str, Any]:
        files = {"pool": run.pool, "store": run.store, "model": self.model, "anchor_file": self.anchors}
        names = {name: str(file) for name, file in files.items()}
        return {**names, "run": "r", "shard_size": 60, "racing": "off", "dtype": "float32"}

    def start_command(self, run: StoppedRun, *options: str, without: str = "", **variables: str) -> None:
        pool, *fields = self.config(run).items()
        given = [word for name, value in fields for word in (f"--{name.replace('_', '-')}", str(value))]
        environment = {name: value for name, value in self.environment.items() if name != without}
        command = [str(BIN / "nuggets"), "curate", pool[1], *given, *options]
        run.terminal, run.is_command = start_in_terminal(command, environment | variables), True


@contextmanager
def own_server(given: Given) -> Iterator[list[StoppedRun]]:
    """Commands without a configured server. The state of their flow runs stays in the database of each."""
    runs = given.runs
    for run in runs:
        home = run.folder / "prefect"
        home.mkdir()
        run.api, run.database = None, home / "prefect.db"
        # With a database that has its tables a server starts in half the time.
        origin = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
        with closing(sqlite3.connect(origin)) as made, closing(sqlite3.connect(run.database)) as copy:
            made.backup(copy)
        given.start_command(run, without="PREFECT_API_URL", PREFECT_HOME=str(home))
    yield runs


@contextmanager
def configured_server(given: Given) -> Iterator[list[StoppedRun]]:
    """Commands on a server that runs already, each with a scoring process."""
    runs = given.runs
    for run in runs:
        given.start_command(run, "--workers", "1")
    yield runs


@contextmanager
def on_dask(given: Given) -> Iterator[list[StoppedRun]]:
    """Commands with a local Dask cluster each, where a signal reaches the cluster too, or with one by its address."""
    runs = given.runs
    with dask(given.environment, given.folder) as by_address:
        for run in runs:
            local = ["--executor", "dask", "--workers", "1"]
            given.start_command(run, *(local if run.way in SIGNALS else by_address))
        yield runs


@contextmanager
def on_ray(given: Given) -> Iterator[list[StoppedRun]]:
    """Commands with a local Ray cluster each, where a signal reaches the cluster too, or with one by its address."""
    runs = given.runs
    with ray(given.environment, given.folder) as by_address:
        for run in runs:
            local = ["--executor", "ray", "--workers", "1"]
            given.start_command(run, *(local if run.way in SIGNALS else by_address))
        yield runs


@contextmanager
def process_worker(given: Given) -> Iterator[list[StoppedRun]]:
    """Flow runs of deployments. A signal is for the worker that has started the run."""
    runs = given.runs
    workers: dict[str, InTerminal] = {}
    with ExitStack() as stack:
        for run in runs:
            pool = run.way.name if run.way in SIGNALS else "REQUESTS"
            if pool not in workers:
                workers[pool] = stack.enter_context(_worker(given, pool))
            run.terminal = workers[pool] if run.way in SIGNALS else None
            name = deploy(given, "curate", f"{given.folder.name}-{run.way.name}", pool)
            run.flow_run = run.api.start(name, **given.config(run))
        yield runs


@contextmanager
def with_parts(given: Given) -> Iterator[list[StoppedRun]]:
    """Commands whose shards are scored by a flow run of a deployment."""
    with _with_parts(given) as runs:
        yield runs


@contextmanager
def part(given: Given) -> Iterator[list[StoppedRun]]:
    """The same, where the request is for the flow run that scores the shards."""
    with _with_parts(given) as runs:
        for run in runs:
            run.stops_part = True
        yield runs


@contextmanager
def _with_parts(given: Given) -> Iterator[list[StoppedRun]]:
    runs = given.runs
    with _worker(given, "PARTS"):
        for run in runs:
            name = deploy(given, "score-shards", f"{given.folder.name}-{run.way.name}", "PARTS")
            given.start_command(run, "--executor", "deployment", "--executor-address", name)
        yield runs


@contextmanager
def _worker(given: Given, pool: str) -> Iterator[InTerminal]:
    """A worker in a separate terminal, and its pool."""
    pool = f"{given.folder.name}-{pool}"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", pool]
    worker = start_in_terminal(command, given.environment)
    try:
        pools = Api(given.server).client
        wait_for(lambda: pools.get(f"/work_pools/{pool}").status_code == 200, seconds=120)
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def deploy(given: Given, flow: str, name: str, pool: str) -> str:
    """Deploy a flow without a limit of concurrent runs; the name of the deployment with that of the flow."""
    client = Api(given.server).client
    step = "prefect.deployments.steps.set_working_directory"
    made = client.post("/flows/", json={"name": flow}).raise_for_status().json()
    body = {
        "name": name,
        "flow_id": made["id"],
        "entrypoint": _FLOWS[flow],
        "work_pool_name": f"{given.folder.name}-{pool}",
        "pull_steps": [{step: {"directory": str(ROOT)}}],
    }
    client.post("/deployments/", json=body).raise_for_status()
    return f"{flow}/{name}"
