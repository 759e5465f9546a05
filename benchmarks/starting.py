"""What starting costs: seconds of a whole `nuggets curate` of 8 rows with a tiny model, from the shell's point of view.

    python benchmarks/orchestration.py --starting --json OUT [--beside CHECKOUT]

Each command runs in an empty store, with a temporary server whose database is new, with one whose database exists, and
with a server that runs already. Processor seconds (user and system, of the command and of every process that it has
started) stand beside the wall seconds, because other load on the machine changes the second more than the first.
`--beside` measures another checkout of this repository too, for instance an older one: the two take turns.
"""

import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

FROM_FILE, BY_K_MEANS = ["--anchor-file", "anchors.json"], ["--anchors", "4"]  # the second loads the encoder as well
KINDS = {  # the server, and options
    "temporary server, new database": ("new", FROM_FILE),
    "temporary server": ("temporary", FROM_FILE),
    "temporary server, k-means": ("temporary", BY_K_MEANS),
    "running server": ("running", FROM_FILE),
    "running server, k-means": ("running", BY_K_MEANS),
}


@dataclass(frozen=True)
class Start:
    """A whole command: its wall seconds, and the processor seconds of it and of what it started."""

    checkout: str
    kind: str
    wall: float
    processor: float


def measure_starts(
    checkouts: Mapping[str, Path], inputs: Path, *, kinds: Sequence[str], rounds: int
) -> Iterator[Start]:
    """Commands of these kinds in turn, in every checkout. `inputs` holds pool.jsonl, anchors.json and model/."""
    for name, checkout in checkouts.items():  # the first import of each writes bytecode; the first server, a database
        _command(checkout, inputs, _environment(checkout, inputs / "home" / name), FROM_FILE)
    with _running_server(inputs / "home" / "running") as url:
        for number in range(rounds):
            for kind in kinds:
                server, options = KINDS[kind]
                for name in list(checkouts)[:: 1 if number % 2 == 0 else -1]:
                    with tempfile.TemporaryDirectory(dir=inputs) as new:
                        home = Path(new) if server == "new" else inputs / "home" / name
                        environment = _environment(checkouts[name], home)
                        if server == "running":
                            environment["PREFECT_API_URL"] = url
                        wall, processor = _command(checkouts[name], inputs, environment, options)
                    yield Start(name, kind, wall, processor)


def _environment(checkout: Path, home: Path) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return environment | {"PYTHONPATH": str(checkout), "PREFECT_HOME": str(home)}


def _command(checkout: Path, inputs: Path, environment: dict[str, str], options: Sequence[str]) -> tuple[float, float]:
    """The wall and processor seconds of one command. Ends the program with its output if it fails."""
    with tempfile.TemporaryDirectory(dir=inputs) as store:
        command = [sys.executable, "-m", "flows.cli.commands", "curate", "pool.jsonl", "--model", "model"]
        command += ["--store", store, "--run", "r", "--top-k", "2", "--dtype", "float32", *options]
        before, start = _child_seconds(), time.monotonic()
        done = subprocess.run(command, cwd=inputs, env=environment, capture_output=True, text=True)
        wall = time.monotonic() - start
        if done.returncode:
            raise SystemExit(f"{checkout}, {shlex.join(command)}: {done.stdout}{done.stderr}")
    return wall, _child_seconds() - before


def _child_seconds() -> float:
    """Processor seconds of all ended and awaited processes below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _running_server(home: Path) -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from flows.cli.local_server import prefect_api

    home.mkdir(parents=True)
    os.environ["PREFECT_HOME"] = str(home)
    with temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL}), prefect_api():
        yield PREFECT_API_URL.value() or ""


def start_table(starts: Sequence[Start]) -> str:
    """Median (smallest to largest) seconds of each kind of command, as Markdown."""
    lines = [["", "checkout", "wall, s", "processor, s"], ["---"] * 4]
    for kind, checkout in dict.fromkeys((item.kind, item.checkout) for item in starts):
        mine = [item for item in starts if (item.kind, item.checkout) == (kind, checkout)]
        seconds = [_spread([item.wall for item in mine]), _spread([item.processor for item in mine])]
        lines.append([kind, checkout, *seconds])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
