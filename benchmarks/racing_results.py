"""The results of races, and their table."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a race, in cells; `tokens_share` is of the full table's tokens, None where they are not known."""

    table: str
    candidates: int
    anchors: int
    cut: str
    min_cells: int
    seed: int
    cells_computed: int
    fewest_possible: int
    full_table: int
    same_answer: bool
    kept: int
    rounds: int
    visits_per_candidate: float
    tokens_share: float | None
    seconds: float


_WIDTHS = {
    "cut": -24,
    "min cells": 11,
    "of full": 16,
    "of fewest": 14,
    "rounds": 8,
    "visits": 8,
    "tokens": 8,
    "same": 6,
    "s": 8,
}


def _row(texts: Iterable[str]) -> str:
    return "".join(
        text.ljust(-width) if width < 0 else text.rjust(width)
        for text, width in zip(texts, _WIDTHS.values(), strict=True)
    )


HEADING = _row(_WIDTHS)


def races_row(outcomes: list[Outcome]) -> str:
    """One line for some races of one cut: means, and where there are several also the worst."""

    def figures(values: list[float], form: str) -> str:
        worst = f" {max(values):{form}}" if len(values) > 1 else ""
        return f"{np.mean(values):{form}}{worst}"

    tokens = outcomes[0].tokens_share
    texts = (
        outcomes[0].cut,
        str(outcomes[0].min_cells),
        figures([item.cells_computed / item.full_table for item in outcomes], ".3f"),
        figures([item.cells_computed / max(1, item.fewest_possible) for item in outcomes], ".2f"),
        f"{np.mean([item.rounds for item in outcomes]):.0f}",
        f"{np.mean([item.visits_per_candidate for item in outcomes]):.2f}",
        "-" if tokens is None else f"{tokens:.3f}",
        "yes" if all(item.same_answer for item in outcomes) else "NO",
        f"{np.mean([item.seconds for item in outcomes]):.1f}",
    )
    return _row(texts)
