"""The total order of candidates, as keys that compare like bytes, and the k-th of a pool larger than memory. Pure."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from nuggets.examples import EXAMPLE_ID_LENGTH
from nuggets.scores.golden import ScoreTable

KEY_BYTES = 24 + EXAMPLE_ID_LENGTH
Keys = NDArray[np.bytes_]


def rank_keys(table: ScoreTable) -> Keys:
    """One key per candidate, the best candidate's the smallest.

    By golden score, then mean gain, then example id. A candidate that was dropped with cells missing stands by the
    highest score that it could have had, behind those that have this score.
    """
    bounds = table.bounds
    gain = np.where(np.isnan(table.mean_gain), -np.inf, table.mean_gain)
    high = np.where(table.anchors > 0, bounds.high, -1.0)  # who is judged on nothing stands behind everybody
    parts = [_falling(high), _falling(bounds.low), _falling(gain), _letters(table)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).view(f"S{KEY_BYTES}").ravel()


def nth_key(keys: Callable[[], Iterable[Keys]], rank: int, *, limit: int) -> bytes:
    """The key at a rank, from 1, among all keys that `keys` gives in batches as often as it is asked.

    At most `limit` keys (16 or more) are held at a time: as long as there are more, a random sample of them says
    between which two the wanted one probably lies, and the next pass looks there.
    """
    rng = np.random.default_rng(0)
    low, high = b"", b"\xff" * KEY_BYTES
    while True:
        below = inside = 0
        held, draws = np.empty(0, dtype=f"S{KEY_BYTES}"), np.empty(0)
        for batch in keys():
            above = batch > low
            part = batch[above & (batch <= high)]
            below += len(batch) - int(above.sum())
            inside += len(part)
            held, draws = np.concatenate([held, part]), np.concatenate([draws, rng.random(len(part))])
            if len(held) > limit:
                chosen = np.argpartition(draws, limit)[:limit]
                held, draws = held[chosen], draws[chosen]
        place = rank - below  # among those inside
        if place < 1:  # the sample has misled us, by a chance of one in millions
            low, high = b"", low
        elif place > inside:
            low, high = high, b"\xff" * KEY_BYTES
        elif inside <= limit:
            return bytes(np.sort(held)[place - 1])
        else:
            held.sort()
            middle, margin = place * limit // inside, min(5 * int(np.sqrt(limit)), limit // 4)
            low = bytes(held[middle - margin]) if middle > margin else low
            high = bytes(held[middle + margin]) if middle + margin < limit else high


def _falling(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Eight bytes each that compare in the opposite order of the numbers."""
    bits = (values + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0: two zeros would be told apart by their bits
    sign = np.uint64(1 << 63)
    rising = np.where(bits & sign, ~bits, bits | sign)
    return (~rising).astype(">u8").view(np.uint8).reshape(len(values), 8)


def _letters(table: ScoreTable) -> NDArray[np.uint8]:
    ids = np.array(table.candidate_ids.to_pylist(), dtype=f"S{EXAMPLE_ID_LENGTH}")
    return ids.view(np.uint8).reshape(len(ids), EXAMPLE_ID_LENGTH)
