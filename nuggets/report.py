"""The report of a selection, for people: data in, Markdown out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_BAR = 40  # characters of the longest histogram bar


@dataclass(frozen=True, slots=True)
class RankedExample:
    """A candidate as a report shows it; `rank` counts from 1."""

    rank: int
    example_id: str
    row: int
    golden_score: float
    wins: int
    anchors: int
    mean_gain: float
    kept: bool
    instruction: str
    output: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report says: `facts` are shown in order, `scores` are all golden scores of the pool."""

    title: str
    facts: Mapping[str, Any]
    rejects: Mapping[str, int]
    scores: NDArray[np.float64]
    kept: NDArray[np.bool_]
    best: Sequence[RankedExample]
    worst: Sequence[RankedExample]
    files: Mapping[str, str]


def render_report(data: ReportData) -> str:
    """The whole report."""
    parts = [
        f"# {data.title}",
        _table(("", ""), [(name, _one_line(str(value))) for name, value in data.facts.items()]),
        "## Golden scores",
        "The share of anchors that an example makes more probable when the model sees it first. "
        "Compare scores within this run only: their level depends on the model and the anchors.",
        _table(
            [f"{100 * q:g} %" if 0 < q < 1 else ("least" if q == 0 else "most") for q in QUANTILES],
            [[f"{value:.3f}" for value in np.quantile(data.scores, QUANTILES)]],
        ),
        "```text\n" + histogram(data.scores, data.kept) + "\n```",
        "## Best",
        examples_table(data.best),
        "## Worst",
        examples_table(data.worst),
    ]
    if data.rejects:
        rows = [(reason, str(count)) for reason, count in data.rejects.items()]
        parts += ["## Rows that could not be used", _table(("reason", "rows"), rows)]
    parts += ["## Files", _table(("file", "what it holds"), list(data.files.items()))]
    return "\n\n".join(parts) + "\n"


def histogram(scores: NDArray[np.float64], kept: NDArray[np.bool_], *, bins: int = 20) -> str:
    """Golden scores in bins of equal width from 0 to 1, `#` for kept and `.` for dropped candidates."""
    edges = np.linspace(0, 1, bins + 1)
    # Scores are fractions with small denominators: nudged, 0.15 falls into the bin that starts at 0.15.
    place = np.clip(np.floor(scores * bins + 1e-9).astype(int), 0, bins - 1)
    total = np.bincount(place, minlength=bins)
    inside = np.bincount(place[kept], minlength=bins)
    scale = _BAR / max(1, int(total.max()))
    used = np.flatnonzero(total)
    lines = []
    for index in range(int(used[0]), int(used[-1]) + 1) if len(used) else []:
        length = max(int(np.ceil(total[index] * scale)), 0)
        hashes = min(length, int(np.ceil(inside[index] * scale)))
        bar = "#" * hashes + "." * (length - hashes)
        lines.append(f"{edges[index]:.2f}-{edges[index + 1]:.2f} {total[index]:>8} {bar}".rstrip())
    return "\n".join(["score        examples  (# kept, . dropped)", *lines])


def examples_table(examples: Sequence[RankedExample]) -> str:
    """Some candidates as a Markdown table."""
    return _table(
        ("rank", "score", "wins", "mean gain", "kept", "row", "instruction", "output"),
        [
            (
                str(item.rank),
                f"{item.golden_score:.3f}",
                f"{item.wins}/{item.anchors}",
                "unknown" if item.mean_gain != item.mean_gain else f"{item.mean_gain:+.3f}",
                "yes" if item.kept else "no",
                str(item.row),
                _shortened(item.instruction),
                _shortened(item.output),
            )
            for item in examples
        ],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _shortened(text: str, *, limit: int = 90) -> str:
    line = _one_line(text)
    return line if len(line) <= limit else line[: limit - 1].rstrip("\\") + "…"


def _one_line(text: str) -> str:
    """A text as one cell of a table: a bar or a line break inside it would end the cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
