"""What starting costs: seconds of a whole `nuggets curate` of 8 rows with a tiny model, from the shell's point of view.

    python benchmarks/orchestration.py --starting --json OUT [--beside CHECKOUT]

Each command runs in an empty store, with a temporary server whose database is new, with one whose database exists, and
with a server that runs already. Processor seconds (user and system, of the command and of every process that it has
started) stand beside the wall seconds, because other load on the machine changes the second more than the first.
`--beside` measures another checkout of this repository too, for instance an older one: the two take turns.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SERVERS = ("temporary, new database", "temporary", "running")
ANCHORS = {"from a file": ["--anchor-file", "anchors.json"], "by k-means": ["--anchors", "4"]}


@dataclass(frozen=True)
class Start:
    """A whole command: its wall seconds, and the processor seconds of it and of what it started."""

    checkout: str
    server: str
    anchors: str
    wall: float
    processor: float


def measure_starts(checkouts: dict[str, Path], inputs: Path, *, rounds: int) -> Iterator[Start]:
    """Every command in turn, in every checkout. `inputs` holds pool.jsonl, anchors.json and model/."""
    for name, checkout in checkouts.items():  # the first import of each writes bytecode; the first server a database
        _command(checkout, inputs, _environment(checkout, inputs / "home" / name), "by k-means")
    with _running_server(inputs / "home" / "running") as url:
        for number in range(rounds):
            for server in SERVERS:
                for anchors in ANCHORS if server != SERVERS[0] else ["from a file"]:
                    names = list(checkouts)[:: 1 if number % 2 == 0 else -1]
                    for name in names:
                        with tempfile.TemporaryDirectory(dir=inputs) as new:
                            home = Path(new) if server == SERVERS[0] else inputs / "home" / name
                            environment = _environment(checkouts[name], home)
                            if server == "running":
                                environment["PREFECT_API_URL"] = url
                            yield Start(name, server, anchors, *_command(checkouts[name], inputs, environment, anchors))


def _environment(checkout: Path, home: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return environment | {"PYTHONPATH": str(checkout), "PREFECT_HOME": str(home)}


def _command(checkout: Path, inputs: Path, environment: dict[str, str], anchors: str) -> tuple[float, float]:
    """The wall and processor seconds of one command. Ends the program with its output if it fails."""
    with tempfile.TemporaryDirectory(dir=inputs) as store:
        command = [sys.executable, "-m", "flows.cli.commands", "curate", "pool.jsonl", "--model", "model"]
        command += ["--store", store, "--run", "r", "--top-k", "2", "--dtype", "float32", *ANCHORS[anchors]]
        before, start = _child_seconds(), time.monotonic()
        done = subprocess.run(command, cwd=inputs, env=environment, capture_output=True, text=True)
        wall = time.monotonic() - start
        if done.returncode:
            raise SystemExit(f"{checkout}, anchors {anchors}: {done.stdout}{done.stderr}")
    return wall, _child_seconds() - before


def _child_seconds() -> float:
    """Processor seconds of all ended and awaited processes below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _running_server(home: Path) -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from flows.cli.local_server import prefect_api

    os.environ["PREFECT_HOME"] = str(home)
    with temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL}), prefect_api():
        yield PREFECT_API_URL.value() or ""


def start_table(starts: Sequence[Start]) -> str:
    """Median (smallest to largest) seconds of each kind of command, as Markdown."""
    lines = [["server", "anchors", "checkout", "wall, s", "processor, s"], ["---"] * 5]
    for kind in dict.fromkeys((item.server, item.anchors, item.checkout) for item in starts):
        mine = [item for item in starts if (item.server, item.anchors, item.checkout) == kind]
        lines.append([*kind, _spread([item.wall for item in mine]), _spread([item.processor for item in mine])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
