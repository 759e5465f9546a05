"""Kill `nuggets curate` at random moments, over and over, and see whether a number was lost or computed twice.

    python benchmarks/crash.py --kills 200 --json OUT

Each attempt is the real command with a real Prefect server and a real model. Its process group is killed (kill -9) at
a random moment, usually while it scores. When a run completes, its selection is compared with that
of an undisturbed run, and the next run begins in an empty store, until all kills are done.

After every kill: all cells stored before are still there, with the same numbers; of the cells that the engine gave out,
at most those of the two blocks at risk are missing. At the end: no cell was computed twice but those.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from noted import noted_rows, noting_environment  # noqa: E402

from nuggets.cells.blocks import read_block  # noqa: E402
from nuggets.cells.folders import list_blocks  # noqa: E402
from nuggets.store.store import Store  # noqa: E402

AT_RISK = 4  # candidates: a block of two that is being written, and the next one; several fit between two kills

Cells = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Job:
    """What is run: the command's arguments without the store, and where the engine's cells are noted."""

    arguments: tuple[str, ...]
    folder: Path

    def start(self, store: Path) -> subprocess.Popen[bytes]:
        """Start another attempt at the run in a new process group."""
        command = [str(Path(sys.executable).with_name("nuggets")), "curate", *self.arguments]
        command += ["--store", str(store), "--run", "crash"]
        noting = noting_environment(self.log, commit=AT_RISK // 2)
        with self.stderr.open("wb") as stderr:
            return subprocess.Popen(
                command, env=noting, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )

    @property
    def stderr(self) -> Path:
        """The output of the newest attempt."""
        return self.folder / "stderr.txt"

    def is_scoring(self) -> bool:
        """Whether the newest attempt has logged its last line before the first cell."""
        return "scoring " in self.stderr.read_text()

    @property
    def log(self) -> Path:
        """A line for each row that the engine gave out."""
        return self.folder / "engine.log"

    def computed(self) -> list[tuple[str, str]]:
        """Every cell that the engine gave out since the run began, in order, as often as it did."""
        return [(row.candidate, anchor) for row in noted_rows(self.log) for anchor in row.anchors]


@dataclass
class Outcome:
    """The results of the kills."""

    kills: int = 0
    kills_while_scoring: int = 0
    runs: int = 0
    cells_lost: int = 0  # stored once, and gone or changed later
    cells_beyond_block: int = 0  # given out by the engine, not stored, and more than a block in flight
    cells_computed: int = 0
    cells_computed_twice: int = 0
    twice_at_most: int = 0  # cells in flight at the kills
    same_selections: bool = True
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, computed twice or different."""
        whole = not self.cells_lost and not self.cells_beyond_block and self.same_selections and not self.problems
        return whole and self.cells_computed_twice <= self.twice_at_most


def crash(job: Job, *, kills: int, minutes: float, seed: int) -> Outcome:
    """Do the kills, or those that fit into the time; a run that has begun is always finished."""
    rng = random.Random(seed)
    started = time.monotonic()
    outcome = Outcome()
    expected, scoring_seconds = _undisturbed(job)
    end = started + 60 * minutes
    while outcome.kills < kills and time.monotonic() < end:
        with tempfile.TemporaryDirectory(dir=job.folder) as store:
            job.log.unlink(missing_ok=True)
            _one_run(job, Path(store), outcome, rng, kills=kills, end=end, longest=scoring_seconds / 4)
            selection = _selection(Path(store))
            if selection != expected:
                outcome.same_selections = False
                outcome.problems.append(f"run {outcome.runs}: another selection than the undisturbed run's")
            count = Counter(job.computed())
            outcome.cells_computed += count.total()
            outcome.cells_computed_twice += sum(number - 1 for number in count.values())
            outcome.runs += 1
        print(f"{outcome.kills} kills, {outcome.runs} runs finished, {len(outcome.problems)} problems", flush=True)
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def _one_run(
    job: Job, store: Path, outcome: Outcome, rng: random.Random, *, kills: int, end: float, longest: float
) -> None:
    """Attempts at one run until it completes; none is killed later than `longest` seconds after it begins to score."""
    before: Cells = {}
    while True:
        earlier = len(job.computed())
        process = job.start(store)
        is_killed = outcome.kills < kills and time.monotonic() < end
        scoring = _live(job, process, rng, longest) if is_killed else False
        if process.wait() != -signal.SIGKILL:
            if process.returncode:
                outcome.problems.append(f"exit code {process.returncode}: {job.stderr.read_text()[-2000:]}")
            return
        outcome.kills += 1
        outcome.kills_while_scoring += scoring
        before = _compare(store, before, job.computed()[earlier:], outcome)


def _live(job: Job, process: "subprocess.Popen[bytes]", rng: random.Random, longest: float) -> bool:
    """Kill an attempt after a random time unless it has ended; returns whether it had begun to score."""
    wait_for_scoring = rng.random() < 0.8
    end = time.monotonic() + (120 if wait_for_scoring else rng.uniform(0.1, 12))
    scoring = False
    while time.monotonic() < end and process.poll() is None:
        if not scoring and job.is_scoring():
            scoring = True
            if wait_for_scoring:
                end = time.monotonic() + rng.uniform(0.0, longest)
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return scoring


def _compare(store: Path, before: Cells, computed: list[tuple[str, str]], outcome: Outcome) -> Cells:
    """Check the store after a kill: it holds the earlier cells and those of this attempt, except one block."""
    now = _stored(store)
    lost = [cell for cell, value in before.items() if cell not in now or not np.isclose(now[cell], value, atol=1e-2)]
    outcome.cells_lost += len(lost)
    missing = [cell for cell in dict.fromkeys(computed) if cell not in now]
    in_flight = {candidate for candidate, _ in missing}
    if len(in_flight) > AT_RISK:
        outcome.cells_beyond_block += len(missing)
        outcome.problems.append(f"kill {outcome.kills}: {len(in_flight)} candidates computed and not stored")
    outcome.twice_at_most += len(missing)
    return now


def _stored(store: Path) -> Cells:
    opened = Store(str(store))
    cells: Cells = {}
    for path in list_blocks(opened, "cells"):
        block = read_block(opened, path)
        if block is not None:
            rows, columns = np.nonzero(~np.isnan(block.values))
            for row, column in zip(rows, columns, strict=True):
                cells[block.candidate_ids[row], block.anchor_ids[column]] = float(block.values[row, column])
    return cells


def _undisturbed(job: Job) -> tuple[list[Any], float]:
    """The selection of an undisturbed run, and its seconds from the first cell to its end."""
    with tempfile.TemporaryDirectory(dir=job.folder) as store:
        process = job.start(Path(store))
        while process.poll() is None and not job.is_scoring():
            time.sleep(0.02)
        scoring = time.monotonic()
        if code := process.wait():
            raise SystemExit(f"the undisturbed run failed with exit code {code}: {job.stderr.read_text()[-3000:]}")
        return _selection(Path(store)), time.monotonic() - scoring


def _selection(store: Path) -> list[Any]:
    """The kept examples with rank and score; a float's last digits may depend on what shared a forward pass."""
    files = list(store.glob("runs/crash/selections/*/*/selected.jsonl"))
    lines = files[0].read_text(encoding="utf-8").splitlines() if files else []
    return [(row["example_id"], row["rank"], row["golden_score"]) for row in map(json.loads, lines)]


def prepare_job(folder: Path, *, model: str | None, examples: int, anchors: int, racing: str) -> Job:
    """A run over some of the demo's examples."""
    rows = (ROOT / "demo" / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "pool.jsonl").write_text("\n".join(rows[:examples]) + "\n", encoding="utf-8")
    (folder / "anchors.jsonl").write_text("\n".join(rows[-anchors:]) + "\n", encoding="utf-8")
    arguments = [str(folder / "pool.jsonl"), "--anchor-file", str(folder / "anchors.jsonl"), "--racing", racing]
    arguments += ["--shard-size", "10", "--top-fraction", "0.2", "--profile", "plain"]
    return Job((*arguments, *(["--model", model] if model else [])), folder)


def main() -> None:
    """Run it, print the results, and end with exit code 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no kills after this many minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="default: the packaged SmolLM2-135M-Instruct")
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--anchors", type=int, default=8)
    parser.add_argument("--racing", choices=("on", "off"), default="on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from flows.cli.local_server import prefect_api

    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("PREFECT_HOME", f"{folder}/prefect")
        with prefect_api():
            from prefect.settings import PREFECT_API_URL

            os.environ["PREFECT_API_URL"] = PREFECT_API_URL.value()  # one server for all attempts
            job = prepare_job(
                Path(folder),
                model=options.model,
                examples=options.examples,
                anchors=options.anchors,
                racing=options.racing,
            )
            outcome = crash(job, kills=options.kills, minutes=options.minutes, seed=options.seed)
    report = asdict(outcome) | {"passed": outcome.passed, "racing": options.racing}
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if outcome.passed else 1)


if __name__ == "__main__":
    main()
