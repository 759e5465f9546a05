"""Scoring on several workers of which one dies: the same answer, and nothing computed twice but the block in flight.

Real clusters of several processes on this machine, their threads bounded. Minutes: `make slow`.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from clusters import BIN, dask, local, ray
from conftest import EXAMPLES
from orchestrated import wait_for
from selections import selection_path

from benchmarks.noted import noted_rows, noting_environment
from deployments.local_s3 import free_port
from flows.execution.clusters import dask_cluster, ray_cluster
from flows.execution.executor import Executor
from nuggets.errors import NuggetsError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
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


def speaking(arguments: Sequence[str], environment: dict[str, str] | None) -> subprocess.Popen[str]:
    """A process whose output, all of it, `communicate` gives."""
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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
        wait_for(lambda: len({row.process for row in noted_rows(file)}) == 2 or run.poll() is not None, seconds=200)
        assert run.poll() is None, run.communicate()[0]
        victim = noted_rows(file)[-1].process
        wait_for(lambda: [row.process for row in noted_rows(file)].count(victim) >= 2 * COMMIT, seconds=200)
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
