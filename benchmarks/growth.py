"""How the engine's cost grows with candidates, anchors, the demonstration's length and the model.

    python benchmarks/growth.py --json FILE

Random weights and random ids with the lengths of the paper's anchors. Useful FLOP/s should stay flat: then cost is in
proportion to the arithmetic that can't be avoided, and nothing is lost to small or large jobs. (Useful tokens per
second fall with long demonstrations, since every token then attends to more of them.)
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs where nuggets is not installed

from machine import describe_machine, describe_versions
from measuring import wait_for
from shapes import SHAPES, random_model, random_workloads
from useful_work import shape_of, useful_work
from workload import Workload

from nuggets.engine.choose import open_engine
from nuggets.engine.interface import LanguageModel

_ANCHORS = 100  # as many as there are lengths; more repeat them


@dataclass(frozen=True, slots=True)
class Point:
    """One job of a sweep, and what each round measured of it."""

    sweep: str
    value: int
    workload: Workload
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Measure every sweep on every shape, print, and write the JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=["small", "smollm2-135m"])
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds over all points (3)")
    parser.add_argument("--most-candidates", type=int, default=64, metavar="N", help="candidates at most (64)")
    parser.add_argument("--most-anchors", type=int, default=1000, metavar="N", help="anchors at most (1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    record: dict[str, Any] = {
        "machine": describe_machine(device),
        "versions": describe_versions(),
        "dtype": str(dtype).removeprefix("torch."),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print("\n".join(f"{key}: {value}" for key, value in record.items()), flush=True)
    for name in args.shapes:
        model = random_model(name, dtype=dtype, device=device)
        points = list(_points(name, most_candidates=args.most_candidates, most_anchors=args.most_anchors))
        _measure(open_engine(model), points, rounds=args.rounds, device=device)
        record[name] = _summary(model, points)
        _print(name, record[name])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _points(shape: str, *, most_candidates: int, most_anchors: int) -> Iterator[Point]:
    for candidates in (1, 4, 16, 64):
        if candidates <= most_candidates:
            yield Point("candidates", candidates, _job(shape, 65, candidates=candidates, anchors=20))
    for anchors in (10, 30, 100, 300, 1000):
        if anchors <= most_anchors:
            yield Point("anchors", anchors, _job(shape, 65, candidates=1, anchors=anchors))
    for tokens in (20, 65, 200, 500, 1000):
        yield Point("demonstration_tokens", tokens, _job(shape, tokens, candidates=1, anchors=_ANCHORS))


def _job(shape: str, demonstration: int, *, candidates: int, anchors: int) -> Workload:
    (workload,) = random_workloads(shape, [demonstration], candidates=candidates, anchor_count=min(anchors, _ANCHORS))
    repeated = workload.anchors * (anchors // len(workload.anchors))
    return Workload(workload.source, workload.candidates, repeated)


def _measure(engine: LanguageModel, points: list[Point], *, rounds: int, device: torch.device) -> None:
    """Fills the points' seconds, all points in turn and then all again: other load affects all equally."""
    _score(engine, points[0].workload, device)
    for _ in range(rounds):
        for point in points:
            point.seconds.append(_score(engine, point.workload, device))


def _score(engine: LanguageModel, workload: Workload, device: torch.device) -> float:
    started = time.perf_counter()
    rows = np.array(list(engine.log_prob_sums(workload.candidates, workload.anchors)))
    wait_for(device)
    if not np.isfinite(rows).all():
        raise RuntimeError("the model gave sums that are not numbers: what was timed is not scoring")
    return time.perf_counter() - started


def _summary(model: Any, points: list[Point]) -> list[dict[str, Any]]:
    shape = shape_of(model)
    rows = []
    for point in points:
        work = useful_work(shape, point.workload.candidates, point.workload.anchors)
        seconds = statistics.median(point.seconds)
        rows.append(
            {
                "sweep": point.sweep,
                "value": point.value,
                "cells": work.cells,
                "seconds": seconds,
                "spread": [min(point.seconds), max(point.seconds)],
                "useful_tokens_per_s": work.tokens / seconds,
                "useful_flop_per_s": work.flop / seconds,
            }
        )
    return rows


def _print(name: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{name}\n{'':22}{'':>6}{'cells':>8}{'seconds':>10}{'tokens/s':>11}{'GFLOP/s':>10}")
    for row in rows:
        print(
            f"{row['sweep']:22}{row['value']:>6}{row['cells']:>8}{row['seconds']:>10.2f}"
            f"{row['useful_tokens_per_s']:>11,.0f}{row['useful_flop_per_s'] / 1e9:>10,.1f}"
        )
    for sweep in dict.fromkeys(row["sweep"] for row in rows):
        rates = [row["useful_flop_per_s"] for row in rows if row["sweep"] == sweep]
        print(f"{sweep}: slowest at {min(rates) / max(rates):.2f} of the fastest useful FLOP/s", flush=True)


if __name__ == "__main__":
    main()
