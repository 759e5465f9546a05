"""Two values for one cell: the value with the smallest digest is used. Pure.

Two devices may round a cell differently, and two runs may compute it at the same time. The rule does not depend on the
order in which values are read, and repetition changes nothing. It favours neither wins nor losses: the digest does
not depend on the size of a value.
"""

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def value_digest(candidate_id: str, anchor_id: str, value: float) -> bytes:
    """Digest of a cell's ids and its float32 value; a baseline has the empty string as its candidate."""
    # + 0.0 turns -0.0 into 0.0: equal values must have equal digests.
    return hashlib.sha256(f"{candidate_id} {anchor_id} ".encode() + struct.pack("<f", value + 0.0)).digest()


def join_cells(
    known: NDArray[np.float32], new: NDArray[np.float32], *, candidate_ids: Sequence[str], anchor_ids: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Two tables of cells `(candidates, anchors)` as one, NaN where neither has a value.

    Also returns the positions `(conflicts, 2)` of the cells for which the tables hold different values.
    """
    joined = np.fmax(known, new)  # the value that is not NaN; conflicts are decided below
    conflicts = conflicting(known, new)
    for row, column in conflicts:
        ids = candidate_ids[row], anchor_ids[column]
        joined[row, column] = min(known[row, column], new[row, column], key=lambda value: value_digest(*ids, value))
    return joined, conflicts


def conflicting(known: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.intp]:
    """Positions `(conflicts, 2)` of the cells for which two tables hold different values."""
    differ = (known < new) | (known > new)  # False for NaN
    return np.argwhere(differ) if differ.any() else np.empty((0, 2), dtype=np.intp)
