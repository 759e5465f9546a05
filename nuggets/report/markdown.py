"""The report of a selection: data in, Markdown out. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.report.bins import ScoreBins, histogram
from nuggets.report.not_used import NotUsed
from nuggets.scores.anchor_wins import ReportedAnchor
from nuggets.scores.selection import RankedRow, ScoreCounts

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
ANCHORS_SHOWN = 20  # of the most won and of the least won anchors each
_ANCHOR_HEADER = ("anchor", "win rate", "wins/cells", "zero-shot loss", "remark", "pool row", "instruction", "output")


@dataclass(frozen=True, slots=True)
class RankedExample:
    """A candidate with its texts."""

    candidate: RankedRow
    instruction: str
    output: str

    @property
    def score(self) -> str:
        """The golden score, or the interval in which it lies where cells are missing."""
        wins, cells, anchors = self.candidate.wins, self.candidate.cells, self.candidate.anchors
        if anchors == 0:
            return "none"
        low, high = wins / anchors, (wins + anchors - cells) / anchors
        return f"{low:.3f}" if cells == anchors else f"{low:.3f} to {high:.3f}"


@dataclass(frozen=True, slots=True)
class ReportData:
    """The contents of a report."""

    title: str
    facts: Mapping[str, Any]  # shown in this order
    not_used: Sequence[NotUsed]
    rejects_file: str  # full address; empty if no row was rejected
    counts: ScoreCounts
    bins: ScoreBins
    cells: Mapping[int, int]  # candidates by number of cells
    best: Sequence[RankedExample]
    worst: Sequence[RankedExample]
    picture: str  # the file's name, beside the report
    folder: str  # of the files, full address
    files: Mapping[str, str]
    anchors: Sequence[ReportedAnchor] = ()  # most won first; without any the report has no such section


def render_report(data: ReportData) -> str:
    """The whole report."""
    quantiles = score_quantiles(data.counts)
    certain = bool(data.counts.bounds.complete.all())
    names = {"0": "lowest", "1": "highest"}
    parts = [
        f"# {data.title}",
        _table(("", ""), [(name, _one_line(str(value))) for name, value in data.facts.items()]),
        *_not_used(data),
        "## Golden scores",
        "The share of anchors that an example makes more probable when the model sees it first. "
        "Compare scores within this run only: their level depends on the model and the anchors.",
        _table(
            [names.get(q, f"{100 * float(q):g} %") for q in quantiles],
            [[f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}" for low, high in quantiles.values()]],
        ),
        picture(data.picture),
        "```text\n" + histogram(data.bins) + "\n```",
    ]
    if not certain:
        parts += [
            "## Cells per candidate",
            "Candidates that could no longer make the cut were dropped with cells missing: their score is an "
            "interval. Kept candidates have all of their cells.",
            _table(("cells", "candidates"), _by_cells(data.cells)),
        ]
    worst = "## Worst" if certain else "## Worst, by the highest score possible"
    parts += ["## Best", examples_table(data.best, certain=certain), worst, examples_table(data.worst, certain=certain)]
    if data.anchors:
        parts += ["## Anchors", *_anchors(data.anchors, certain=certain)]
    parts += ["## Files", f"In {_address(data.folder)}", _table(("file", "what it holds"), list(data.files.items()))]
    return "\n\n".join(parts) + "\n"


def _not_used(data: ReportData) -> list[str]:
    """The section on what was cut, dropped or left out; it is never absent."""
    parts = ["## What was not used"]
    if not data.not_used:
        return [*parts, "Nothing was cut, dropped, merged or left out."]
    rows = [(_one_line(item.what), str(item.count), _one_line(item.which)) for item in data.not_used]
    parts.append(_table(("what", "how many", "which"), rows))
    if data.rejects_file:
        parts.append(f"Every rejected row with its reason: {_address(data.rejects_file)}")
    return parts


def score_quantiles(counts: ScoreCounts) -> dict[str, tuple[float, float]]:
    """Lower and upper bound of each quantile of a pool's golden scores; equal where all scores are known."""
    counts = counts.eligible if counts.eligible.candidates else counts
    low, high = (_quantiles(values, counts.count) for values in (counts.bounds.low, counts.bounds.high))
    return {f"{q:g}": (round(a, 6), round(b, 6)) for q, a, b in zip(QUANTILES, low, high, strict=True)}


def picture(address: str) -> str:
    """The picture of a selection's scores, as Markdown."""
    return f"![Golden scores of the candidates, kept and dropped]({address})"


def _quantiles(values: NDArray[np.float64], count: NDArray[np.int64]) -> list[float]:
    """Quantiles of values that occur `count` times each, interpolated linearly as numpy does."""
    order = np.argsort(values)
    ends = np.cumsum(count[order])
    positions = np.array(QUANTILES) * (int(ends[-1]) - 1)
    floor = np.floor(positions)
    below, above = (
        values[order[np.searchsorted(ends, rounded, side="right")]] for rounded in (floor, np.ceil(positions))
    )
    return [float(value) for value in below + (above - below) * (positions - floor)]


def _by_cells(cells: Mapping[int, int], *, bins: int = 10) -> list[tuple[str, str]]:
    most = max(cells)
    width = max(1, -(-most // bins))
    candidates: dict[int, int] = {}
    for number, count in cells.items():
        candidates[number // width] = candidates.get(number // width, 0) + count
    bounds = {index: (index * width, min(most, (index + 1) * width - 1)) for index in sorted(candidates)}
    return [
        (str(first) if first == last else f"{first} to {last}", str(candidates[index]))
        for index, (first, last) in bounds.items()
    ]


def files_table(addresses: Mapping[str, str]) -> str:
    """Names and full addresses of files, as Markdown."""
    return _table(("file", "where"), [(name, _address(address)) for name, address in addresses.items()])


def selections_table(rows: Sequence[tuple[str, int, str]]) -> str:
    """A run's selections side by side, as Markdown: cut, number of kept candidates, address."""
    cells = [(_one_line(cut), str(kept), _one_line(folder)) for cut, kept, folder in rows]
    return _table(("cut", "kept", "where"), cells)


def examples_table(examples: Sequence[RankedExample], *, certain: bool = True) -> str:
    """Candidates as a Markdown table. Dropped ones have a rank only if all scores are known (`certain`)."""
    return _table(
        ("rank", "score", "wins", "cells", "mean gain", "kept", "row", "instruction", "output"),
        [
            (
                str(row.rank) if row.kept or certain else "",
                example.score,
                str(row.wins),
                f"{row.cells}/{row.anchors}",
                "unknown" if math.isnan(row.mean_gain) else f"{row.mean_gain:+.3f}",
                "yes" if row.kept else "no",
                str(row.row),
                _shortened(example.instruction),
                _shortened(example.output),
            )
            for example in examples
            for row in [example.candidate]
        ],
    )


def _anchors(anchors: Sequence[ReportedAnchor], *, certain: bool) -> list[str]:
    """Anchors as Markdown, most won first: all of a small set, the most and the least won of a large one."""
    never = sum(anchor.cells > 0 and anchor.wins == 0 for anchor in anchors)
    always = sum(0 < anchor.cells == anchor.wins for anchor in anchors)
    explanation = (
        "How often candidates win each anchor, and its zero-shot loss in nats per response token. An anchor that no "
        "candidate wins, or every one, does not distinguish candidates: "
        f"{never} of {len(anchors)} are never won, {always} always."
    )
    if not certain:
        explanation += (
            " Only computed cells count, and a race chooses them: first the cells that it expects to be lost, and all "
            "cells of kept candidates. They are not a random sample, so these are not the win rates of the whole pool."
        )
    parts, rows = [explanation], [_anchor_cells(anchor) for anchor in anchors]
    if len(anchors) > 2 * ANCHORS_SHOWN:
        parts.append(
            f"The {ANCHORS_SHOWN} most won and the {ANCHORS_SHOWN} least won anchors; anchors.parquet has all."
        )
        rows = [*rows[:ANCHORS_SHOWN], ["..."] + [""] * (len(_ANCHOR_HEADER) - 1), *rows[-ANCHORS_SHOWN:]]
    return [*parts, _table(_ANCHOR_HEADER, rows)]


def _anchor_cells(anchor: ReportedAnchor) -> list[str]:
    return [
        str(anchor.row),
        f"{anchor.wins / anchor.cells:.3f}" if anchor.cells else "none",
        f"{anchor.wins}/{anchor.cells}",
        "none" if anchor.loss is None else f"{anchor.loss:.3f}",
        anchor.remark,
        "" if anchor.pool_row is None else str(anchor.pool_row),
        _shortened(anchor.instruction),
        _shortened(anchor.output),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _shortened(text: str, *, limit: int = 90) -> str:
    line = _one_line(text)
    return line if len(line) <= limit else line[: limit - 1].rstrip("\\") + "…"


def _address(address: str) -> str:
    """An address as code, because Markdown reads underscores as emphasis."""
    return f"`{_one_line(address)}`"


def _one_line(text: str) -> str:
    """A text as one cell of a table; a bar or a line break would end the cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
