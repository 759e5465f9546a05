"""What packs came to, and where it belongs in the rows that were asked for. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nuggets.scoring.packing import Layout, Pack

# Sums of a pack's members, in their order; None for what memory had no room for. Several where a pack was cut.
PackSums = list[tuple[Pack, NDArray[np.float64] | None]]


def write_sums(sums: NDArray[np.float64], layout: Layout, rows: Sequence[int], found: PackSums) -> dict[int, list[int]]:
    """Writes sums to their rows and columns and returns, by row, the members that are left; no row without any.

    `rows`: for each prefix of the packs, its row in `sums` (prefixes, continuations).
    """
    columns = np.array(layout.columns, dtype=np.intp)
    left: dict[int, list[int]] = {}
    for pack, values in found:
        start = 0
        for run in pack:
            row = rows[run.prefix]
            if values is None:
                left.setdefault(row, []).extend(range(run.first, run.stop))
                continue
            stop = start + run.stop - run.first
            sums[row, columns[run.first : run.stop]] = values[start:stop]
            start = stop
    return {row: sorted(members) for row, members in left.items()}
