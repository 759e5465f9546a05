"""The race: all algorithms over the same cells, round by round, so that other load affects them equally."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from contestants import Contestant
from measuring import Measurement, measure
from workload import Prefix

from nuggets.engine.interface import Continuation

_WARM_UP_ANCHORS = {"cpu": 1, "cuda": None}  # None: all; a GPU's libraries choose and load kernels for sizes they meet


@dataclass(frozen=True, slots=True)
class Round:
    """A round's candidates, and what each algorithm made of them, by its name."""

    prefixes: list[Prefix]
    measurements: dict[str, Measurement]


def run_rounds(
    contestants: Sequence[Contestant],
    rounds: Sequence[list[Prefix]],
    anchors: Sequence[Continuation],
    *,
    threads: int,
    deadline: float | None,
    between: Callable[[], None],
) -> list[Round]:
    """Every algorithm on every round's candidates, another one first each time; `between` runs before and after each.

    No round is begun that would probably end after the deadline (by time.monotonic); the first one always is.
    """
    held = {item.name: item.held_bytes for item in contestants}

    def score(contestant: Contestant, prefixes: list[Prefix], anchors: Sequence[Continuation]) -> Measurement:
        torch.set_num_threads(threads)  # resets what the previous algorithm has set
        measured = measure(lambda: contestant.sums(prefixes, anchors), contestant.model.device)
        if measured.peak_bytes is None or measured.kept_bytes is None:
            return measured
        before = held[contestant.name]
        held[contestant.name] = max(0, before + measured.kept_bytes)
        return replace(measured, peak_bytes=measured.peak_bytes + before)

    for contestant in contestants:
        score(contestant, rounds[0][:1], anchors[: _WARM_UP_ANCHORS[contestant.model.device.type]])
    between()
    finished: list[Round] = []
    started = time.monotonic()
    for index, prefixes in enumerate(rounds):
        now = time.monotonic()
        if deadline is not None and index and now + (now - started) / index > deadline:
            break
        turn = index % len(contestants)
        order = [*contestants[turn:], *contestants[:turn]]
        measurements = {item.name: score(item, prefixes, anchors) for item in order}
        finished.append(Round(prefixes, measurements))
        seconds = ", ".join(f"{name} {lap.seconds:.1f} s" for name, lap in measurements.items())
        print(f"round {index + 1} of {len(rounds)}: {seconds}", file=sys.stderr, flush=True)
        between()
    return finished
