"""Selection: which candidates a cut keeps, in a total order that no ordering of the input can change. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuggets.cuts import Cut, Threshold, kept_count
from nuggets.golden import GoldenTable


@dataclass(frozen=True, slots=True)
class CutResult:
    """What a cut makes of a table of golden scores; `order` and `kept` are positions in the table, best first."""

    cut: Cut
    table: GoldenTable
    order: NDArray[np.int64]
    kept: NDArray[np.int64]

    @property
    def is_kept(self) -> NDArray[np.bool_]:
        """For each candidate, in the order of the table, whether it is kept."""
        return np.isin(np.arange(len(self.order)), self.kept)


def apply_cut(table: GoldenTable, cut: Cut) -> CutResult:
    """Rank all candidates and keep those that the cut keeps."""
    return CutResult(cut, table, ranking(table), select(table, cut))


def ranking(table: GoldenTable) -> NDArray[np.int64]:
    """Positions in the table from best to worst: by golden score, then mean gain, then example id."""
    gain = np.where(np.isnan(table.mean_gain), -np.inf, table.mean_gain)
    return np.lexsort((np.array(table.candidate_ids), -gain, -table.golden_score))


def select(table: GoldenTable, cut: Cut) -> NDArray[np.int64]:
    """Positions in the table of the candidates that the cut keeps, best first."""
    order = ranking(table)
    if isinstance(cut, Threshold):
        return order[table.golden_score[order] > cut.value]
    return order[: kept_count(cut, len(order))]
