"""Selection: which candidates a cut keeps, in a total order that no ordering of the input can change. Pure."""

import numpy as np
from numpy.typing import NDArray

from nuggets.cuts import Cut, Threshold, kept_count
from nuggets.golden import GoldenTable


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
