"""The total order of candidates as byte keys, and the k-th key of a pool larger than memory. Pure."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from nuggets.examples import EXAMPLE_ID_LENGTH
from nuggets.scores.golden import ScoreTable

KEY_BYTES = 24 + EXAMPLE_ID_LENGTH
Keys = NDArray[np.bytes_]


def rank_keys(table: ScoreTable) -> Keys:
    """One key per candidate; the best candidate has the smallest.

    Keys order by golden score, then mean gain, then example id. A candidate that was dropped with cells missing ranks
    by its highest possible score, after the candidates that have this score.
    """
    bounds = table.bounds
    gain = np.where(np.isnan(table.mean_gain), -np.inf, table.mean_gain)
    high = np.where(table.anchors > 0, bounds.high, -1.0)  # candidates without eligible anchors rank last
    parts = [_falling(high), _falling(bounds.low), _falling(gain), _letters(table)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).view(f"S{KEY_BYTES}").ravel()


def nth_key(keys: Callable[[], Iterable[Keys]], rank: int, *, limit: int) -> bytes:
    """The key at a rank, from 1, among all keys; every call of `keys` gives them again in batches.

    At most `limit` keys (16 or more) are held at a time. While more lie in question, a random sample of them gives two
    keys between which the wanted one probably lies, and the next pass reads only those between.
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
        inner = rank - below  # the rank among the keys inside
        if inner < 1:  # the sample was misleading, which happens once in millions
            low, high = b"", low
        elif inner > inside:
            low, high = high, b"\xff" * KEY_BYTES
        elif inside <= limit:
            return bytes(np.sort(held)[inner - 1])
        else:
            held.sort()
            middle, margin = inner * limit // inside, min(5 * int(np.sqrt(limit)), limit // 4)
            low = bytes(held[middle - margin]) if middle > margin else low
            high = bytes(held[middle + margin]) if middle + margin < limit else high


def _falling(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Eight bytes per number that compare in the opposite order of the numbers."""
    bits = (values + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0: the bits of the two zeros differ
    sign = np.uint64(1 << 63)
    rising = np.where(bits & sign, ~bits, bits | sign)
    return (~rising).astype(">u8").view(np.uint8).reshape(len(values), 8)


def _letters(table: ScoreTable) -> NDArray[np.uint8]:
    ids = np.array(table.candidate_ids.to_pylist(), dtype=f"S{EXAMPLE_ID_LENGTH}")
    return ids.view(np.uint8).reshape(len(ids), EXAMPLE_ID_LENGTH)
