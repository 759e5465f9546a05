"""Results as plain text: medians for each algorithm, and beneath them the least and most over the rounds. Pure."""

from collections.abc import Mapping, Sequence

from contestants import Contestant
from results import DEFINITION, FLOAT32, Figure, Result, distance, paired_ratios
from rounds import Round

_UNDISTURBED = 0.1  # cores
_COLUMNS = {  # quantity -> heading, what to divide it by, decimals
    "cells_per_s": ("cells/s", 1.0, 2),
    "useful_tokens_per_s": ("useful tok/s", 1.0, 0),
    "useful_flop_per_s": ("useful GFLOP/s", 1e9, 1),
    "share_of_matrix_rate": ("% of matrix rate", 0.01, 1),
    "cpu_seconds": ("CPU s/cand.", 1.0, 2),
    "cpu_seconds_per_cell": ("CPU s/cell", 1.0, 3),
    "peak_memory_bytes": ("peak MB", 1e6, 0),
    "cores_elsewhere": ("cores elsewhere", 1.0, 2),
}


def results_table(contestants: Sequence[Contestant], results: Mapping[str, Result]) -> str:
    """The table, two lines for each algorithm."""
    references = [(DEFINITION, "")] + ([(FLOAT32, " fp32")] if FLOAT32 in results else [])
    headings = [f"{what}{suffix}" for _, suffix in references for what in ("max diff", "wins differ")]
    lines = [["", *(heading for heading, _, _ in _COLUMNS.values()), *headings]]
    for contestant in contestants:
        row = results[contestant.name]
        apart = [distance(row, results[name]) for name, _ in references]
        differences = [text for nats, wins in apart for text in (f"{nats:.2g}", f"{wins} of {row.wins.size}")]
        lines.append([contestant.title, *_medians(row), *differences])
        lines.append(["", *_spreads(row), *[""] * len(differences)])
    return _aligned(lines)


def ratios_table(contestants: Sequence[Contestant], rounds: Sequence[Round]) -> str:
    """How many times ours each rival takes, pair by pair of the same round."""
    lines = [["times what ours takes", "wall time", "", "CPU time", ""]]
    for contestant in contestants:
        if contestant.name == "ours":
            continue
        ratios = paired_ratios(rounds, contestant.name, to="ours").values()
        texts = [part for item in ratios for part in (f"{item.median:.2f}", f"{item.least:.2f}–{item.most:.2f}")]
        lines.append([contestant.title, *texts])
    return _aligned(lines)


def rates_line(rates: Mapping[str, Figure]) -> str:
    """The matrix rates that shares are taken of."""
    parts = [
        f"{name} {item.median / 1e9:,.1f} GFLOP/s ({item.least / 1e9:,.1f}–{item.most / 1e9:,.1f})"
        for name, item in rates.items()
    ]
    return "matrix rate, with the model's own shapes: " + "; ".join(parts)


def disturbance_line(results: Mapping[str, Result]) -> str:
    """A warning if other programs were at work: they hold up products split over threads more than others."""
    found = [row.figures["cores_elsewhere"] for row in results.values()]
    most = max((item.most for item in found if item), default=0.0)
    if most <= _UNDISTURBED:
        return ""
    return f"WARNING: other programs kept up to {most:.1f} cores busy meanwhile; measure again on a quiet machine"


def _medians(row: Result) -> list[str]:
    return [
        "-" if item is None else f"{item.median / unit:,.{decimals}f}"
        for item, (_, unit, decimals) in _with_columns(row)
    ]


def _spreads(row: Result) -> list[str]:
    return [
        "" if item is None else f"{item.least / unit:,.{decimals}f}–{item.most / unit:,.{decimals}f}"
        for item, (_, unit, decimals) in _with_columns(row)
    ]


def _with_columns(row: Result) -> list[tuple[Figure | None, tuple[str, float, int]]]:
    return [(row.figures[name], column) for name, column in _COLUMNS.items()]


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in lines
    )
