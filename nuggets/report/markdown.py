"""The report of a selection, for people: data in, Markdown out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.report.bins import ScoreBins, histogram
from nuggets.scores.anchor_wins import ReportedAnchor
from nuggets.scores.selection import RankedRow, ScoreCounts

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
ANCHOR_ENDS = 20  # so many of the most and of the least won anchors are shown
_ANCHOR_HEADER = ("anchor", "win rate", "wins/cells", "zero-shot loss", "remark", "pool row", "instruction", "output")


@dataclass(frozen=True, slots=True)
class RankedExample:
    """A candidate as a report shows it."""

    place: RankedRow
    instruction: str
    output: str

    @property
    def score(self) -> str:
        """Its golden score, or where cells are missing the interval in which it lies."""
        if self.place.anchors == 0:
            return "none"
        low = self.place.wins / max(1, self.place.anchors)
        high = low + (self.place.anchors - self.place.cells) / max(1, self.place.anchors)
        return f"{low:.3f}" if self.place.cells == self.place.anchors else f"{low:.3f} to {high:.3f}"


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report says: `facts` are shown in order, `bins` are those of `levels`, `cells` is candidates by cells.

    `anchors` come most won first; none, and the report is silent about them.
    """

    title: str
    facts: Mapping[str, Any]
    rejects: Mapping[str, int]  # rows by reason
    rejects_file: str  # where they stand one by one, full address
    levels: ScoreCounts
    bins: ScoreBins
    cells: Mapping[int, int]
    best: Sequence[RankedExample]
    worst: Sequence[RankedExample]
    picture: str  # the file's name, beside the report
    folder: str  # of the files, full address
    files: Mapping[str, str]
    anchors: Sequence[ReportedAnchor] = ()


def render_report(data: ReportData) -> str:
    """The whole report."""
    quantiles = score_quantiles(data.levels)
    certain = bool(data.levels.bounds.complete.all())
    names = {"0": "least", "1": "most"}
    parts = [
        f"# {data.title}",
        _table(("", ""), [(name, _one_line(str(value))) for name, value in data.facts.items()]),
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
            "Candidates that could not reach the cut any more were dropped before they met all anchors: their score is "
            "known to lie between two bounds. Those that are kept have all of their cells.",
            _table(("cells", "candidates"), _by_cells(data.cells)),
        ]
    worst = "## Worst" if certain else "## Worst, by the highest score possible"
    parts += ["## Best", examples_table(data.best, certain=certain), worst, examples_table(data.worst, certain=certain)]
    if data.anchors:
        parts += ["## Anchors", *_anchors(data.anchors, certain=certain)]
    if data.rejects:
        rows = [(reason, str(count)) for reason, count in data.rejects.items()]
        said = f"Each with its row and what is wrong with it: {_address(data.rejects_file)}"
        parts += ["## Rows that could not be used", said, _table(("reason", "rows"), rows)]
    parts += ["## Files", f"In {_address(data.folder)}", _table(("file", "what it holds"), list(data.files.items()))]
    return "\n\n".join(parts) + "\n"


def score_quantiles(levels: ScoreCounts) -> dict[str, tuple[float, float]]:
    """Quantiles of a pool's golden scores, each with the bounds between which it lies; equal where scores are known."""
    levels = levels.eligible if levels.eligible.candidates else levels
    low, high = (_quantiles(values, levels.count) for values in (levels.bounds.low, levels.bounds.high))
    return {f"{q:g}": (round(a, 6), round(b, 6)) for q, a, b in zip(QUANTILES, low, high, strict=True)}


def picture(address: str) -> str:
    """The picture of a selection's scores, as Markdown."""
    return f"![Golden scores of the candidates, kept and dropped]({address})"


def _quantiles(values: NDArray[np.float64], count: NDArray[np.int64]) -> list[float]:
    """Of values that occur `count` times each, interpolated between neighbours as numpy does."""
    order = np.argsort(values)
    ends = np.cumsum(count[order])
    places = np.array(QUANTILES) * (int(ends[-1]) - 1)
    below, above = (
        values[order[np.searchsorted(ends, rounded, side="right")]] for rounded in (np.floor(places), np.ceil(places))
    )
    return [float(value) for value in below + (above - below) * (places - np.floor(places))]


def _by_cells(cells: Mapping[int, int], *, bins: int = 10) -> list[tuple[str, str]]:
    most = max(cells)
    width = max(1, -(-most // bins))
    counted: dict[int, int] = {}
    for number, count in cells.items():
        counted[number // width] = counted.get(number // width, 0) + count
    bounds = {place: (place * width, min(most, (place + 1) * width - 1)) for place in sorted(counted)}
    return [
        (str(first) if first == last else f"{first} to {last}", str(counted[place]))
        for place, (first, last) in bounds.items()
    ]


def files_table(addresses: Mapping[str, str]) -> str:
    """Where files lie, as Markdown: their names and full addresses."""
    return _table(("file", "where"), [(name, _address(address)) for name, address in addresses.items()])


def selections_table(rows: Sequence[tuple[str, int, str]]) -> str:
    """A run's selections side by side, as Markdown: what each keeps, how many, and where it lies."""
    cells = [(_one_line(cut), str(kept), _one_line(folder)) for cut, kept, folder in rows]
    return _table(("cut", "kept", "where"), cells)


def examples_table(examples: Sequence[RankedExample], *, certain: bool = True) -> str:
    """Some candidates as a Markdown table; ranks of dropped ones only if they are `certain`, all scores being known."""
    return _table(
        ("rank", "score", "wins", "cells", "mean gain", "kept", "row", "instruction", "output"),
        [
            (
                str(place.rank) if place.kept or certain else "",
                item.score,
                str(place.wins),
                f"{place.cells}/{place.anchors}",
                "unknown" if place.mean_gain != place.mean_gain else f"{place.mean_gain:+.3f}",
                "yes" if place.kept else "no",
                str(place.row),
                _shortened(item.instruction),
                _shortened(item.output),
            )
            for item in examples
            for place in [item.place]
        ],
    )


def _anchors(anchors: Sequence[ReportedAnchor], *, certain: bool) -> list[str]:
    """Anchors most won first, as Markdown: all of a small set, both ends of a large one."""
    never = sum(anchor.cells > 0 and anchor.wins == 0 for anchor in anchors)
    always = sum(0 < anchor.cells == anchor.wins for anchor in anchors)
    said = (
        "How often the candidates win each anchor, and its zero-shot loss in nats per response token. An anchor that "
        "nobody wins, or everybody, does not tell candidates apart: "
        f"{never} of {len(anchors)} are never won, {always} always."
    )
    if not certain:
        said += (
            " Only computed cells count, and a race picks them: first of all those that it expects to be lost, and all "
            "cells of those that are kept. They are no random sample, so these are not the win rates of the whole pool."
        )
    parts, rows = [said], [_anchor_cells(anchor) for anchor in anchors]
    if len(anchors) > 2 * ANCHOR_ENDS:
        parts.append(
            f"The {ANCHOR_ENDS} that are won most and the {ANCHOR_ENDS} that are won least; anchors.parquet has all."
        )
        rows = [*rows[:ANCHOR_ENDS], ["..."] + [""] * (len(_ANCHOR_HEADER) - 1), *rows[-ANCHOR_ENDS:]]
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
    """An address as code, which is shown as it is: underscores in it are no emphasis."""
    return f"`{_one_line(address)}`"


def _one_line(text: str) -> str:
    """A text as one cell of a table: a bar or a line break inside it would end the cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
