"""A run on paper: GPU-hours and wall time from the model's arithmetic and from what the other benchmarks measured.

    python benchmarks/scale.py --tflops 400

`--tflops` is what one device does of useful work per second: benchmarks/engine.py measures it on yours. Everything else
is read from benchmarks/results: planning a round (racing-100k.json and select.json, linear in candidates), what a task
and a run cost besides (orchestration.json), and the share of the tokens that a race for the best 5 % takes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs where nuggets is not installed

from shapes import SHAPES, random_model, random_workloads
from useful_work import shape_of, useful_work

from nuggets.config.configs import SHARD_SIZE

RESULTS = Path(__file__).with_name("results")
RUNS = ((52_002, 1), (52_002, 8), (52_002, 64), (10_000_000, 64), (10_000_000, 512))
_DEMONSTRATION = 120  # tokens, about the mean of instruction pools


@dataclass(frozen=True)
class Measured:
    """What other benchmarks found, in seconds but for the race's share of the tokens and its rounds."""

    planning: float  # a round, per candidate: reading and verifying all cells, and choosing the next
    task: float  # each further scoring task
    start: float  # of a run, and its end
    tokens_share: float
    rounds: int


@dataclass(frozen=True)
class Paper:
    """A run on paper, in hours."""

    candidates: int
    devices: int
    racing: bool
    device_hours: float
    computing: float
    planning: float  # if every device waited for every plan
    rest: float

    @property
    def hours(self) -> float:
        """From start to end."""
        return self.computing + self.planning + self.rest


def measured() -> Measured:
    """What is in the results."""
    races = _read("racing-100k.json")["races"]
    race = next(item for item in races if item["min_cells"] == 4 and item["cut"] == "best 5 %")
    cells = next(size for size in _read("select.json")["sizes"] if size["candidates"] == race["candidates"])
    planning = race["seconds"] / race["rounds"] + cells["steps"]["score"]["seconds"]
    cost = next(item for item in _read("orchestration.json")["costs"] if item["engine"] == "2 processes")
    start = next(iter(cost["seconds"].values()))[0]
    share, rounds = race["tokens_share"], race["rounds"]
    return Measured(planning / race["candidates"], max(0.0, cost["each"][0]), start, share, rounds)


def on_paper(known: Measured, flop: float, *, candidates: int, devices: int, racing: bool, rate: float) -> Paper:
    """A run whose full table takes `flop` per candidate, on devices that do `rate` FLOP/s each."""
    share, rounds = (known.tokens_share, known.rounds) if racing else (1.0, 1)
    seconds = candidates * flop * share / rate
    tasks = candidates / SHARD_SIZE * share + rounds * devices
    planning = (rounds + 1) * candidates * known.planning
    rest = (
        known.start + tasks * known.task + planning / (rounds + 1)
    )  # the last: golden scores read every cell once more
    return Paper(candidates, devices, racing, seconds / 3600, seconds / devices / 3600, planning / 3600, rest / 3600)


def flop_per_candidate(shape: str) -> float:
    """Useful FLOP of a demonstration in front of the paper's 100 anchors."""
    model = random_model(shape, device=torch.device("meta"), dtype=torch.bfloat16)
    (work,) = random_workloads(shape, [_DEMONSTRATION], candidates=1, anchor_count=None)
    return float(useful_work(shape_of(model), work.candidates, work.anchors).flop)


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def table(papers: Sequence[Paper]) -> str:
    """As Markdown."""
    head = (
        "candidates",
        "GPUs",
        "racing",
        "GPU-hours",
        "computing",
        "planning, at most",
        "the rest",
        "from start to end",
    )
    lines: list[Sequence[str]] = [head, ["---"] * len(head)]
    for item in papers:
        spans = [_span(hours) for hours in (item.computing, item.planning, item.rest, item.hours)]
        racing = "best 5 %" if item.racing else "off"
        lines.append((f"{item.candidates:,}", str(item.devices), racing, f"{item.device_hours:,.1f}", *spans))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _span(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, required=True, help="useful TFLOP/s of one device")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama-7b")
    options = parser.parse_args()
    known, flop = measured(), flop_per_candidate(options.shape)
    print(f"{options.shape}, 100 anchors: {flop / 1e12:.0f} TFLOP per candidate; {options.tflops:g} TFLOP/s per device")
    print(f"a round's plan: {1e6 * known.planning:.0f} s per million candidates; {known.rounds} rounds; {known}\n")
    rate = options.tflops * 1e12
    papers = [
        on_paper(known, flop, candidates=candidates, devices=devices, racing=racing, rate=rate)
        for candidates, devices in RUNS
        for racing in (True, False)
    ]
    print(table(papers))


if __name__ == "__main__":
    main()
