"""Tables of cells for races: read from a file and checked, or synthetic."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nuggets.errors import InputError

_COLUMNS = ("candidate_row", "anchor_row", "zero_shot", "one_shot")


@dataclass(frozen=True, slots=True)
class Table:
    """All gains `(candidates, anchors)` of a pool in nats, the least candidate row first; tokens where they matter."""

    name: str
    gains: NDArray[np.float64]
    anchor_tokens: NDArray[np.float64] | None = None
    demonstration_tokens: NDArray[np.float64] | None = None


def read_table(file: Path) -> Table:
    """A table of all cells from a file. Raises InputError if it is damaged, or if cells are missing or occur twice."""
    reader = pyarrow.csv.read_csv if file.suffix == ".csv" else pq.read_table
    try:
        stored = reader(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} can't be read as a table ({error}): give a Parquet or CSV file") from error
    if lacking := [name for name in _COLUMNS if name not in stored.column_names]:
        raise InputError(f"{file} lacks {', '.join(lacking)}: a table has the columns {', '.join(_COLUMNS)}")
    columns = {name: _column(file, name, stored[name]) for name in _COLUMNS}
    if not stored.num_rows:
        raise InputError(f"{file} has no rows: a table has one for each candidate and anchor")
    rows, candidate = np.unique(columns["candidate_row"], return_inverse=True)
    anchor_rows, anchor = np.unique(columns["anchor_row"], return_inverse=True)
    counts = np.bincount(candidate)
    if len(rows) * len(anchor_rows) > stored.num_rows:
        place = int(counts.argmin())
        raise InputError(
            f"{file}: cells are missing, {len(rows)} candidates and {len(anchor_rows)} anchors need "
            f"{len(rows) * len(anchor_rows)}, there are {stored.num_rows}: "
            f"candidate_row {rows[place]} has {counts[place]}"
        )
    place = candidate * len(anchor_rows) + anchor
    times = np.bincount(place, minlength=len(rows) * len(anchor_rows))
    if (times != 1).any():
        where = divmod(int(np.argmax(times != 1)), len(anchor_rows))
        raise InputError(
            f"{file}: candidate_row {rows[where[0]]} has {times[times != 1][0]} cells of anchor_row "
            f"{anchor_rows[where[1]]}: give each cell once"
        )
    gains = np.empty(len(place))
    gains[place] = columns["one_shot"] - columns["zero_shot"]
    return Table(str(file), gains.reshape(len(rows), len(anchor_rows)))


def _column(file: Path, name: str, column: Any) -> NDArray[Any]:
    is_row = name.endswith("_row")
    right = pa.types.is_integer(column.type) if is_row else _is_number(column.type)
    if column.null_count or not right:
        contents = f"{column.null_count} empty values" if column.null_count else f"values of type {column.type}"
        raise InputError(f"{file}: {name} has {contents}: give {'whole numbers' if is_row else 'sums in nats'}")
    values = column.to_numpy()
    if not is_row and not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values)))
        raise InputError(f"{file}: {name} is {values[row]} in row {row}: a cell is a finite sum in nats")
    return values if is_row else values.astype(np.float64)


def _is_number(kind: Any) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def made_up_table(candidates: int, *, anchors: int = 100, seed: int = 0) -> Table:
    """Wins with probability skill * ease, gains as skewed as real ones, and lengths as in the paper's data."""
    rng = np.random.default_rng([seed, candidates])
    skill, ease = rng.beta(4, 4, candidates), rng.beta(2, 2, anchors)
    gains = rng.gamma(2, 2, (candidates, anchors))
    gains[rng.random((candidates, anchors)) >= skill[:, None] * ease] *= -1
    lengths = [np.ceil(rng.lognormal(np.log(mean), 0.6, size)) for mean, size in ((130, anchors), (120, candidates))]
    return Table(f"made up, {candidates:,} x {anchors}", gains, *lengths)
