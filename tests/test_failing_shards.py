"""Shards that fail: a fault comes from outside, against a real server, worker and S3 server. Minutes: `make slow`."""

import errno
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import s3fs
from conftest import EXAMPLES
from orchestrated import OVER, Api, manifest, stored_cells, wait_for
from tiny_models import build_tokenizer, save_poisoned_llama

from benchmarks.noted import noted_rows, noting_environment
from deployments.local_stack import BUCKET, LocalStack
from deployments.processes import family, lives
from nuggets.cells.folders import list_blocks
from nuggets.examples import Example, example_id
from nuggets.pools.shards import read_ids, read_pool_record
from nuggets.steps.block_writer import BLOCK_CANDIDATES
from nuggets.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ANCHORS = len(EXAMPLES)
MARKS = ("~", "@")  # in no example; each is one token, and none is used by an engine's self-check
PAUSES = [(2.5, 7.5), (10, 30), (30, 90)]  # seconds: 5, 20 and 60, half more or less

# What Python runs before all else where this lies on its path. In the processes that score, and there only, a model
# that is given a marked token finds the device's memory full, as often as the folder says: the first N processes
# that meet the token never recover, the next ones never notice.
SPOILED = """
import os, sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
MODULE = "torch.nn.modules.sparse"
spoiled = {}


def is_spoiled(token):
    if token not in spoiled:
        times = int(open(f"{FOLDER}/{token}.times").read())
        with open(f"{FOLDER}/{token}.failed", "a+") as failed:
            failed.seek(0)
            spoiled[token] = len(failed.readlines()) < times
            if spoiled[token]:
                failed.write(f"{os.getpid()}\\n")
    return spoiled[token]


class Spoiler:
    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        load = spec.loader.exec_module

        def load_and_spoil(module):
            load(module)
            forward = module.Embedding.forward

            def spoiled_forward(self, ids):
                import torch

                present = set(ids.flatten().tolist())
                for name in os.listdir(FOLDER):
                    token, dot, kind = name.partition(".")
                    if kind == "times" and int(token) in present and is_spoiled(token):
                        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                return forward(self, ids)

            module.Embedding.forward = spoiled_forward

        spec.loader.exec_module = load_and_spoil
        return spec


if "nuggets.devices.worker" in sys.orig_argv:
    sys.meta_path.insert(0, Spoiler())
"""


class Fault:
    """Memory that runs out where a marked candidate is scored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sitecustomize.py").write_text(SPOILED)
        self._tokenizer = build_tokenizer(True, None)

    def _token(self, mark: str) -> int:
        (token,) = self._tokenizer(mark, add_special_tokens=False)["input_ids"]
        return token

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.folder)}

    def strikes(self, mark: str, *, times: int) -> None:
        (self.folder / f"{self._token(mark)}.times").write_text(str(times))

    def struck(self, mark: str) -> list[int]:
        """The processes that it hit."""
        return [int(pid) for pid in (self.folder / f"{self._token(mark)}.failed").read_text().split()]


@pytest.fixture
def fault(tmp_path: Path) -> Fault:
    folder = tmp_path / "fault"
    folder.mkdir()
    return Fault(folder)


@pytest.fixture(autouse=True)
def nothing_left_running(api: Api) -> Iterator[None]:
    """A test that fails leaves no run behind that the next one's would wait for."""
    yield
    for run in api.runs_of("curate/on-demand"):
        if run["state"]["type"] not in OVER:
            api.set_state(run["id"], "CANCELLING", "Cancelling")
            api.await_end(run["id"], seconds=200)


def examples(shards: int, size: int, marks: dict[int, str]) -> list[dict[str, str]]:
    """A pool of which exactly these shards hold a candidate with this mark, in its instruction."""
    plain = [
        {**EXAMPLES[number % ANCHORS], "instruction": f"{EXAMPLES[number % ANCHORS]['instruction']} ({number})"}
        for number in range(shards * size - len(marks))
    ]
    rows = list(plain)
    for shard, mark in sorted(marks.items()):
        for number in range(10_000):
            row = {**EXAMPLES[0], "instruction": f"{EXAMPLES[0]['instruction']} {mark} {number}"}
            others = len(rows) - len(plain)  # marked ones in front, which are in earlier shards
            place = sum(row_id(item) < row_id(row) for item in plain) + others
            if shard * size <= place < (shard + 1) * size:
                rows.append(row)
                break
    assert len(rows) == shards * size
    return rows


def row_id(row: dict[str, str]) -> str:
    return example_id(Example(row["instruction"], row["input"], row["output"]))


def marked_id(rows: list[dict[str, str]], mark: str) -> str:
    (found,) = [row_id(row) for row in rows if mark in row["instruction"]]
    return found


def small_job(job: dict[str, Any], rows: list[dict[str, str]], size: int, **more: Any) -> dict[str, Any]:
    """The job on a pool of these examples, on two processes."""
    name = f"{Store(job['store']).url.rpartition('/')[2]}-pool.jsonl"
    s3fs.S3FileSystem().pipe_file(f"{BUCKET}/{name}", "".join(json.dumps(row) + "\n" for row in rows).encode())
    return {**job, "pool": f"s3://{BUCKET}/{name}", "shard_size": size, "workers": 2, **more}


def scoring(api: Api, run: str) -> dict[int, dict[str, Any]]:
    """A run's scoring tasks, by their shard: without a race a task is a shard, and in its first round all are there."""
    named = {task["name"]: task for task in api.task_runs(run) if task["name"].startswith("score round 0 part ")}
    return {int(name.split(":")[0].rpartition(" ")[2]): task for name, task in named.items()}


def tries(api: Api, run: str) -> dict[int, int]:
    """How often each shard was tried in a run that is over. What tasks do reaches the database a second later."""

    def ended() -> dict[int, dict[str, Any]] | None:
        tasks = scoring(api, run)
        return tasks if all(task["state_type"] in OVER for task in tasks.values()) else None

    return {shard: task["run_count"] for shard, task in sorted(wait_for(ended, seconds=30).items())}


def waiting(api: Api, run: str) -> list[int]:
    """Shards that have failed and are to be tried again."""
    return [shard for shard, task in scoring(api, run).items() if task["state_name"] == "AwaitingRetry"]


def pauses(api: Api, task: dict[str, Any]) -> list[float]:
    """For how many seconds a task has waited to be tried again, each time."""

    def seconds(text: str) -> float:
        return datetime.fromisoformat(text).timestamp()

    return [
        seconds(state["state_details"]["scheduled_time"]) - seconds(state["timestamp"])
        for state in api.task_states(task["id"])
        if state["name"] == "AwaitingRetry"
    ]


def shard_cells(store: Store, shard: int) -> set[tuple[str, str]]:
    """The stored cells of a shard's candidates."""
    pool = read_pool_record(store, manifest(store)["references"]["pool"])
    ids = set(read_ids(store, pool.shards[shard])[0].to_pylist())
    return {cell for cell in stored_cells(store) if cell[0] in ids}


def worker_pool(stack: LocalStack) -> list[int]:
    members = [str(pid) for pid in family(stack.pids()["worker"])]
    listed = subprocess.run(["ps", "-o", "pid=,args=", "-p", ",".join(members)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "nuggets.devices.worker" in line]


@pytest.mark.parametrize(
    ("blow", "reason"),
    [
        (signal.SIGKILL, "has ended with exit code -9"),
        (signal.SIGSTOP, "has sent no heartbeat for 20 seconds"),
    ],
    ids=["killed", "hung"],
)
def test_a_device_that_is_lost_costs_its_shard_a_retry_and_the_block_in_flight(
    api: Api, stack: LocalStack, store: Store, job: dict[str, Any], tmp_path: Path, blow: signal.Signals, reason: str
) -> None:
    rows = examples(4, 150, {})
    noting = {name: noting_environment(tmp_path / "noted")[name] for name in ("PYTHONPATH", "NOTED_CELLS")}
    run = api.start("curate/on-demand", environment=noting, **small_job(job, rows, 150, stalled_after=20))
    # Each of the two has stored its first block and computes the next one.
    wait_for(lambda: len({path.rpartition("/")[0] for path in list_blocks(store, "cells")}) == 2, seconds=200)
    victim, other = worker_pool(stack)
    os.kill(victim, blow)
    (shard,) = wait_for(lambda: waiting(api, run), seconds=60)
    kept = shard_cells(store, shard)
    assert BLOCK_CANDIDATES * ANCHORS <= len(kept) < 150 * ANCHORS
    assert not lives(victim) and lives(other)
    state = api.await_end(run)
    assert state["type"] == "COMPLETED", api.history(run)
    assert tries(api, run) == {number: 1 + (number == shard) for number in range(4)}
    (pause,) = pauses(api, scoring(api, run)[shard])
    assert PAUSES[0][0] <= pause <= PAUSES[0][1]
    counts = manifest(store)["counts"]
    assert counts["cells"] == len(stored_cells(store)) == len(rows) * ANCHORS
    assert (counts["cells_found"], counts["cells_computed"]) == (0, counts["cells"])
    # Of what was stored nothing is computed again.
    computed = noted_rows(tmp_path / "noted")
    twice = [candidate for candidate, times in Counter(row.candidate for row in computed).items() if times > 1]
    assert {row.candidate for row in computed} == {row_id(row) for row in rows}
    # Lost are the block that was being written and the rows of the next one.
    assert len(twice) <= 2 * BLOCK_CANDIDATES and not {candidate for candidate, _ in kept}.intersection(twice)
    assert {victim, other} <= {row.process for row in computed}  # each had its part in it
    log = wait_for(lambda: "% of the full table" in (log := api.log(run)) and log, seconds=30)
    assert f"cells: {counts['cells']} computed in 1 round, 100 % of the full table are stored" in log
    assert f"part {shard:03d}: {150 * ANCHORS} cells failed and is retried soon: the process on CPU worker" in log
    assert reason in log
    assert not lives(other)  # with the run its processes end


def test_a_shard_that_runs_out_of_memory_once_passes_at_its_next_try(
    api: Api, store: Store, job: dict[str, Any], fault: Fault
) -> None:
    rows = examples(4, 20, {1: "~"})
    fault.strikes("~", times=1)
    run = api.start("curate/on-demand", environment=fault.environment, **small_job(job, rows, 20))
    assert api.await_end(run)["type"] == "COMPLETED", api.history(run)
    assert tries(api, run) == {0: 1, 1: 2, 2: 1, 3: 1} and len(fault.struck("~")) == 1
    assert len(stored_cells(store)) == len(rows) * ANCHORS
    assert "part 001" in api.log(run) and "is retried soon" in api.log(run)


def test_shards_out_of_memory_fail_the_run_and_a_retry_scores_what_they_lack(
    api: Api, store: Store, job: dict[str, Any], fault: Fault
) -> None:
    rows = examples(6, 20, {1: "~", 3: "@"})
    for mark in MARKS:
        fault.strikes(mark, times=99)
    run = api.start("curate/on-demand", environment=fault.environment, **small_job(job, rows, 20))
    state = api.await_end(run, seconds=400)
    assert state["type"] == "FAILED", api.history(run)
    assert "2 tasks of stage 'score' failed (shards 1, 3)" in state["message"] and "memory" in state["message"]
    assert manifest(store)["state"] == "failed" and "shards 1, 3" in manifest(store)["message"]
    assert tries(api, run) == {0: 1, 1: 4, 2: 1, 3: 4, 4: 1, 5: 1}
    first = scoring(api, run)
    waited = [pauses(api, first[shard]) for shard in (1, 3)]
    assert all(low <= pause <= high for each in waited for pause, (low, high) in zip(each, PAUSES, strict=True))
    assert waited[0] != waited[1]  # each by chance, so that they do not come back together
    for mark in MARKS:
        assert len(set(fault.struck(mark))) == 4  # in a new process each time: one without memory is not used again
    for shard in (0, 2, 4, 5):
        assert len(shard_cells(store, shard)) == 20 * ANCHORS
    before = stored_cells(store)
    assert len(before) < len(rows) * ANCHORS

    for mark in MARKS:
        fault.strikes(mark, times=0)
    api.set_state(run, "SCHEDULED", "AwaitingRetry")
    wait_for(lambda: api.state(run)["type"] == "RUNNING", seconds=60)
    assert api.await_end(run)["type"] == "COMPLETED", api.history(run)
    counts = manifest(store)["counts"]
    assert counts["cells_found"] == len(before)
    assert counts["cells_computed"] == len(rows) * ANCHORS - len(before)
    assert len(stored_cells(store)) == counts["cells"] == len(rows) * ANCHORS
    earlier = {task["id"] for task in first.values()}

    def scored_again() -> list[str]:
        names = [task["name"] for task in api.task_runs(run) if task["id"] not in earlier]
        return [name for name in names if name.startswith("score ")]

    again = wait_for(lambda: len(names := scored_again()) >= 2 and names, seconds=30)
    assert len(again) == 2, again  # the other four shards have no task in the second attempt


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a separate file system of four mebibytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return filler


def test_a_full_disk_is_waited_for_and_the_run_continues_when_there_is_room(
    api: Api, job: dict[str, Any], small_disk: Path
) -> None:
    store = Store(str(small_disk / "store"))
    rows = examples(4, 150, {})
    run = api.start("curate/on-demand", **small_job(job, rows, 150) | {"store": store.url})
    wait_for(lambda: list_blocks(store, "cells"), seconds=200)
    filler = fill(small_disk)
    wait_for(lambda: waiting(api, run), seconds=60)
    log = wait_for(lambda: "No space left on device" in (log := api.log(run)) and log, seconds=30)
    assert "is retried soon: could not write" in log and "the disk or quota is full: free some space" in log
    before = stored_cells(store)
    filler.unlink()
    assert api.await_end(run)["type"] == "COMPLETED", api.history(run)
    counted = tries(api, run)
    assert max(counted.values()) >= 2 and sorted(counted) == [0, 1, 2, 3]
    assert before <= stored_cells(store) and len(stored_cells(store)) == len(rows) * ANCHORS
    assert not store.leftovers()
    assert manifest(store)["state"] == "complete"


def test_a_candidate_without_finite_numbers_fails_its_shard_at_once_or_is_unscorable(
    api: Api, store: Store, job: dict[str, Any], tmp_path: Path
) -> None:
    rows = examples(4, 20, {2: "~"})
    poisoned = marked_id(rows, "~")
    model = save_poisoned_llama(tmp_path / "model", "~")
    wanted = small_job(job, rows, 20, model=str(model))
    run = api.start("curate/on-demand", **wanted)
    state = api.await_end(run)
    assert state["type"] == "FAILED", api.history(run)
    assert "(shards 2)" in state["message"] and f"candidate {poisoned}" in state["message"]
    assert "max_bad_candidates" in state["message"]
    assert tries(api, run) == {0: 1, 1: 1, 2: 1, 3: 1} and pauses(api, scoring(api, run)[2]) == []
    sound = {(row_id(row), row_id(anchor)) for row in rows if row_id(row) != poisoned for anchor in EXAMPLES}
    assert stored_cells(store) == sound

    again = api.start("curate/on-demand", **wanted, max_bad_candidates=1)
    assert api.await_end(again)["type"] == "COMPLETED", api.history(again)
    counts = manifest(store)["counts"]
    assert (counts["cells_found"], manifest(store)["state"]) == (len(sound), "complete")
    assert stored_cells(store) == sound
    (path,) = [path for path in store.list("runs/r/selections") if path.endswith("/report.md")]
    artifacts = api.client.post("/artifacts/filter", json={"flow_runs": {"id": {"any_": [again]}}}).json()
    (shown,) = [artifact["data"] for artifact in artifacts if artifact["key"] == "selection"]
    for report in (store.read(path).decode(), shown):
        assert f"| candidates for which the model gives no finite number, never kept | 1 | {poisoned}; " in report


def test_parameters_that_can_not_work_fail_at_once(api: Api, job: dict[str, Any], pools: dict[str, str]) -> None:
    wrong = {"anchor_file": None, "anchors": 50}
    run = api.start("curate/on-demand", **{**job, "pool": pools["small"], "workers": 2, **wrong})
    state = api.await_end(run)
    assert state["type"] == "FAILED", state
    assert "anchors=50 is more than the 20 distinct, usable examples of the pool" in state["message"]
    (task,) = wait_for(lambda: [task for task in api.task_runs(run) if task["state_type"] == "FAILED"], seconds=30)
    assert task["run_count"] == 1 and pauses(api, task) == []
    assert not scoring(api, run)
