"""One workload's comparison: the matrix rate, the rounds and the results, printed and as a record."""

from collections.abc import Sequence
from itertools import pairwise

from contestants import Contestant
from matrix_rate import Yardstick, find_yardstick
from results import as_json, figure, result
from rivals import pairs
from rounds import Round, run_rounds
from table import disturbance_line, rates_line, ratios_table, results_table
from useful_work import shape_of, useful_work
from workload import Workload, in_rounds


def compare(
    contestants: Sequence[Contestant],
    workload: Workload,
    *,
    candidates: int,
    rounds: int,
    deadline: float | None,
    threads: int,
) -> dict[str, object]:
    """Let all contestants score `candidates` candidates a round, for `rounds` rounds or until the deadline."""
    shape = shape_of(contestants[0].model)
    parts = in_rounds(workload.candidates, size=candidates, rounds=rounds)
    work = [useful_work(shape, prefixes, workload.anchors) for prefixes in parts]
    by_dtype = {item.dtype: item.model for item in contestants}
    baselines = {dtype: pairs(model, [()], workload.anchors)[0] for dtype, model in by_dtype.items()}
    yardsticks = {
        dtype: find_yardstick(work[0].products, dtype=model.dtype, device=model.device, threads=threads)
        for dtype, model in by_dtype.items()
    }
    rates: dict[str, list[float]] = {dtype: [] for dtype in by_dtype}

    def take_rates() -> None:
        for dtype, yardstick in yardsticks.items():
            rates[dtype].append(yardstick.rate(work[0].products))

    finished = run_rounds(contestants, parts, workload.anchors, threads=threads, deadline=deadline, between=take_rates)
    rate = {dtype: figure(values) for dtype, values in rates.items()}
    results = {
        item.name: result(
            [each.measurements[item.name] for each in finished],
            work[: len(finished)],
            candidates=candidates,
            matrix_rates=[(before + after) / 2 for before, after in pairwise(rates[item.dtype])],
            baseline=baselines[item.dtype],
        )
        for item in contestants
    }
    counted = {"source": workload.source, **_counts(workload, finished)}
    print("\n" + "\n".join(f"{name}: {value}" for name, value in counted.items()))
    print(disturbance_line(results))
    print(f"{rates_line(rate)}\n\n{results_table(contestants, results)}\n\n{ratios_table(contestants, finished)}")
    return {
        **as_json(results, finished),
        "matrix_rate": {
            dtype: {
                "flop_per_s": item.median,
                "spread": [item.least, item.most],
                "ways": _ways(yardsticks[dtype]),
            }
            for dtype, item in rate.items()
        },
        "workload": counted,
    }


def _counts(workload: Workload, finished: Sequence[Round]) -> dict[str, object]:
    demonstrations = [len(prefix) for each in finished for prefix in each.prefixes]
    return {
        "rounds": len(finished),
        "candidates": len(demonstrations),
        "anchors": len(workload.anchors),
        "demonstration_tokens": _extent(demonstrations),
        "anchor_tokens": _extent([len(item.ids) for item in workload.anchors]),
        "response_tokens": _extent([item.response_tokens for item in workload.anchors]),
    }


def _extent(lengths: Sequence[int]) -> dict[str, float]:
    return {"least": min(lengths), "mean": round(sum(lengths) / len(lengths), 1), "most": max(lengths)}


def _ways(yardstick: Yardstick) -> dict[str, list[str]]:
    """How the fastest products were computed, as evidence for the rate."""
    return {
        f"{inputs} x {outputs}": [f"{way.rows} rows, {way.columns} columns, {way.lanes} side by side" for way in ways]
        for (inputs, outputs), ways in yardstick.ways.items()
    }
