"""From the rounds' measurements to one figure a column: medians, their spread, and how far sums lie apart. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from measuring import Measurement
from numpy.typing import NDArray
from rounds import Round
from useful_work import UsefulWork

DEFINITION = "pairs"  # the algorithm that all sums are compared with
FLOAT32 = "released_fp32"  # the one that, beside rivals of less precision, shows what is rounding
UNITS = {
    "cells_per_s": "(candidate, anchor) pairs per second of wall time, median over rounds",
    "useful_tokens_per_s": "tokens that have to be computed (benchmarks/useful_work.py) per second, median over rounds",
    "useful_flop_per_s": "see benchmarks/useful_work.py, median over rounds",
    "share_of_matrix_rate": "useful_flop_per_s over the mean of the matrix rates before and after the round",
    "seconds": "wall time per candidate, median over rounds",
    "cpu_seconds": "CPU seconds of all threads per candidate, median over rounds",
    "cpu_seconds_per_cell": "CPU seconds of all threads per cell, median over rounds",
    "peak_memory_bytes": "most bytes beside weights and program, median over rounds; null where it can't be measured",
    "cores_elsewhere": "cores that other programs kept busy meanwhile, median over rounds; above 0.1 times are suspect",
    "spread": "[least, most] over rounds of each of the above",
    "largest_difference": "nats between a sum and that of pairs, in the same number format",
    "wins_that_differ": "cells that are a win here and none for pairs, or the other way round",
    "largest_difference_from_float32": "the same against released_fp32, where it ran",
    "wins_that_differ_from_float32": "the same against released_fp32, where it ran",
    "times_ours": "wall and CPU time over ours of the same round: [median, least, most]",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A quantity over the rounds."""

    median: float
    least: float
    most: float


def figure(values: Sequence[float]) -> Figure:
    """Median and extremes of one value a round."""
    return Figure(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Result:
    """One algorithm's row of the table; the keys of `figures` are those of UNITS."""

    figures: dict[str, Figure | None]
    sums: NDArray[np.float64]  # (candidates, anchors) of all rounds
    wins: NDArray[np.bool_]


def result(
    measurements: Sequence[Measurement],
    work: Sequence[UsefulWork],
    *,
    candidates: int,
    matrix_rates: Sequence[float],
    baseline: NDArray[np.float64],
) -> Result:
    """One algorithm's figures from its measurement, the useful work of each round of `candidates` candidates, and the
    matrix rate (FLOP/s) at that time: the machine's speed may drift, and both with it."""
    laps = list(zip(measurements, work, strict=True))
    elsewhere = [lap.cores_elsewhere for lap in measurements if lap.cores_elsewhere is not None]
    peaks = [lap.peak_bytes for lap in measurements if lap.peak_bytes is not None]
    sums = np.concatenate([lap.sums for lap in measurements])
    figures = {
        "cells_per_s": figure([done.cells / lap.seconds for lap, done in laps]),
        "useful_tokens_per_s": figure([done.tokens / lap.seconds for lap, done in laps]),
        "useful_flop_per_s": figure([done.flop / lap.seconds for lap, done in laps]),
        "share_of_matrix_rate": figure(
            [done.flop / lap.seconds / rate for (lap, done), rate in zip(laps, matrix_rates, strict=True)]
        ),
        "seconds": figure([lap.seconds / candidates for lap in measurements]),
        "cpu_seconds": figure([lap.cpu_seconds / candidates for lap in measurements]),
        "cpu_seconds_per_cell": figure([lap.cpu_seconds / done.cells for lap, done in laps]),
        "peak_memory_bytes": figure(peaks) if peaks else None,
        "cores_elsewhere": figure(elsewhere) if elsewhere else None,
    }
    return Result(figures, sums, sums > baseline)  # a tie is a loss


def distance(found: Result, expected: Result) -> tuple[float, int]:
    """The largest difference of a sum (nats), and how many wins differ."""
    return float(np.abs(found.sums - expected.sums).max()), int((found.wins != expected.wins).sum())


def paired_ratios(rounds: Sequence[Round], name: str, *, to: str) -> dict[str, Figure]:
    """How many times the wall and CPU time of `to` algorithm `name` takes, both measured in the same round."""
    couples = [(item.measurements[name], item.measurements[to]) for item in rounds]
    return {
        "seconds": figure([one.seconds / other.seconds for one, other in couples]),
        "cpu_seconds": figure([one.cpu_seconds / other.cpu_seconds for one, other in couples]),
    }


def as_json(results: Mapping[str, Result], rounds: Sequence[Round]) -> dict[str, dict[str, object]]:
    """All algorithms' figures, by name, as plain numbers."""
    return {name: _entry(name, results, rounds) for name in results}


def _entry(name: str, results: Mapping[str, Result], rounds: Sequence[Round]) -> dict[str, object]:
    row = results[name]
    nats, wins = distance(row, results[DEFINITION])
    ratios = paired_ratios(rounds, name, to="ours")
    entry: dict[str, object] = {key: item.median if item else None for key, item in row.figures.items()}
    entry |= {"largest_difference": nats, "wins_that_differ": wins}
    if FLOAT32 in results:
        nats, wins = distance(row, results[FLOAT32])
        entry |= {"largest_difference_from_float32": nats, "wins_that_differ_from_float32": wins}
    entry["spread"] = {key: [item.least, item.most] for key, item in row.figures.items() if item}
    entry["times_ours"] = {key: [item.median, item.least, item.most] for key, item in ratios.items()}
    return entry
