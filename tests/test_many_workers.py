"""Scoring on several workers of which one dies: the same answer, and nothing computed twice but the block in flight.

Real clusters of several processes on this machine, their threads bounded. Minutes: `make slow`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import EXAMPLES
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort
from selections import selection_path

from benchmarks.noted import noted_rows, noting_environment
from deployments.local_s3 import free_port
from flows.execution.clusters import dask_cluster, ray_cluster
from flows.execution.executor import Executor
from nuggets.cells.blocks import read_block
from nuggets.cells.folders import list_blocks
from nuggets.errors import NuggetsError
from nuggets.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BIN = Path(sys.executable).parent
COMMIT = 4  # candidates per block in these tests
ANCHORS = len(EXAMPLES)
CANDIDATES = 600


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    rows = [
        {**row, "instruction": f"{row['instruction']} ({n})"} for n in range(CANDIDATES // ANCHORS) for row in EXAMPLES
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def noting(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> dict[str, str]:
    """Environment in which every process notes the rows that it computes."""
    file = tmp_path_factory.mktemp("noted") / "rows"
    return noting_environment(file, commit=COMMIT) | {"OMP_NUM_THREADS": "1"}


def command(pool: Path, store: Path, model: Path, anchors: Path, *options: str) -> list[str]:
    fixed = ["--run", "r", "--shard-size", "60", "--racing", "off", "--top-k", "50", "--dtype", "float32"]
    places = ["--store", str(store), "--model", str(model), "--anchor-file", str(anchors)]
    return [str(BIN / "nuggets"), "curate", str(pool), *places, *fixed, *options]


@pytest.fixture(scope="module")
def anchors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("anchors") / "anchors.json"
    path.write_text(json.dumps(EXAMPLES))
    return path


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: str, pool: Path, tiny_model: Path, anchors: Path
) -> bytes:
    """What one worker on this machine selects."""
    store = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(pool, store, tiny_model, anchors), check=True, capture_output=True, timeout=300)
    return selected(store)


def selected(store: Path) -> bytes:
    return (store / selection_path(store, "r", "top-k-50") / "selected.jsonl").read_bytes()


def wait_for(happens: Callable[[], object], *, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"it did not happen within {seconds} seconds"
        time.sleep(0.05)


def speaking(arguments: Sequence[str], environment: dict[str, str] | None) -> subprocess.Popen[str]:
    """A process whose output, all of it, `communicate` gives."""
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def started(arguments: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@contextmanager
def local(environment: dict[str, str], folder: Path) -> Iterator[list[str]]:
    yield ["--workers", "2"]


@contextmanager
def dask(environment: dict[str, str], folder: Path) -> Iterator[list[str]]:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    ours = ["--host", "127.0.0.1", "--no-dashboard"]
    with ExitStack() as stack:
        scheduler = [str(BIN / "dask"), "scheduler", *ours, "--port", str(port)]
        stack.enter_context(started(scheduler, {}, folder / "scheduler.log"))
        # One of the two resources that Dask knows by name only: the engine has to ask for it.
        size = ["--nworkers", "2", "--nthreads", "2", "--resources", "GPU=1"]
        workers = [str(BIN / "dask"), "worker", address, *ours, *size]
        there = environment | {"DASK_TEMPORARY_DIRECTORY": str(folder)}
        stack.enter_context(started(workers, there, folder / "workers.log"))
        wait_for(lambda: (folder / "workers.log").read_text().count("Starting established connection") == 2)
        yield ["--executor", "dask", "--executor-address", address]


@contextmanager
def ray(environment: dict[str, str], folder: Path) -> Iterator[list[str]]:
    port = free_port()
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="ray") as place, (folder / "ray.log").open("ab") as log:
        here = ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={place}", "--include-dashboard=false"]
        head = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", *here]
        process = subprocess.Popen(head, env=environment | quiet, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: "Ray runtime started" in (folder / "ray.log").read_text())
        os.environ.update(quiet)  # also for clients that connect to it
        try:
            yield ["--executor", "ray", "--executor-address", f"127.0.0.1:{port}"]
        finally:
            for name in quiet:
                del os.environ[name]
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


@pytest.mark.parametrize(("cluster", "scheme"), [(dask_cluster, "tcp://"), (ray_cluster, ""), (ray_cluster, "ray://")])
def test_a_cluster_that_is_not_there_is_named_before_anything_is_computed(
    cluster: Callable[[str, int], AbstractContextManager[Executor]], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.execution.clusters.CONNECT_SECONDS", 1)
    address = f"{scheme}127.0.0.1:{free_port()}"
    with pytest.raises(NuggetsError, match=f"no cluster answers at executor_address={address}.*start the cluster"):
        with cluster(address, 1):
            pass


@pytest.mark.parametrize("cluster", [local, dask, ray])
def test_a_worker_that_dies_costs_two_blocks_at_most_and_changes_nothing(
    cluster: Callable[..., Iterator[list[str]]],
    tmp_path: Path,
    noting: dict[str, str],
    pool: Path,
    tiny_model: Path,
    anchors: Path,
    undisturbed: bytes,
) -> None:
    file = Path(noting["NOTED_CELLS"])
    file.unlink(missing_ok=True)

    store = tmp_path / "store"
    with cluster(noting, tmp_path) as options:
        run = speaking(command(pool, store, tiny_model, anchors, *options), noting if cluster is local else None)
        wait_for(lambda: len({row.process for row in noted_rows(file)}) == 2 or run.poll() is not None)
        assert run.poll() is None, run.communicate()[0]
        victim = noted_rows(file)[-1].process
        wait_for(lambda: [row.process for row in noted_rows(file)].count(victim) >= 2 * COMMIT)
        os.kill(victim, signal.SIGKILL)
        output = run.communicate(timeout=300)[0]
    assert run.returncode == 0, output
    assert selected(store) == undisturbed
    assert len({row.process for row in noted_rows(file)}) >= 2
    computed = sum(len(row.anchors) for row in noted_rows(file))
    needed = CANDIDATES * ANCHORS
    # One block is written while the next one fills.
    assert needed <= computed <= needed + 2 * COMMIT * ANCHORS, output
    manifest = json.loads((store / "runs/r/manifest.json").read_text())
    assert manifest["state"] == "complete" and manifest["counts"]["cells"] == needed


@pytest.mark.parametrize("cluster", [local, dask, ray])
def test_ctrl_c_stops_every_worker_within_seconds_and_keeps_all_that_was_computed(
    cluster: Callable[..., Iterator[list[str]]],
    tmp_path: Path,
    noting: dict[str, str],
    pool: Path,
    tiny_model: Path,
    anchors: Path,
) -> None:
    file = Path(noting["NOTED_CELLS"])
    file.unlink(missing_ok=True)
    store = tmp_path / "store"
    with cluster(noting, tmp_path) as options:
        run = speaking(command(pool, store, tiny_model, anchors, *options), noting if cluster is local else None)
        wait_for(lambda: noted_rows(file) or run.poll() is not None)
        asked = time.monotonic()
        run.send_signal(signal.SIGINT)
        output = run.communicate(timeout=60)[0]
        assert run.returncode == 130, output
        assert time.monotonic() - asked < 40
        if cluster is not local:  # its tasks were notified
            with get_client(sync_client=True) as client:
                (last,) = client.read_flow_runs(limit=1, sort=FlowRunSort.START_TIME_DESC)
            assert last.state is not None and last.state.is_cancelled(), last.state
        computed = [(row.candidate, anchor) for row in noted_rows(file) for anchor in row.anchors]
        assert 0 < len(computed) < CANDIDATES * ANCHORS, output
        time.sleep(3)
        assert len(noted_rows(file)) * ANCHORS == len(computed)  # no other process has continued to score
    stored = [read_block(Store(str(store)), path) for path in list_blocks(Store(str(store)), "cells")]
    assert sum(int((block.values == block.values).sum()) for block in stored if block is not None) == len(computed)
    assert json.loads((store / "runs/r/manifest.json").read_text())["state"] == "interrupted"
