"""What all algorithms of a benchmark score: candidates' demonstrations and anchors, as token ids. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from nuggets.engine.interface import Continuation
from nuggets.errors import UsageError

Prefix = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """Demonstrations and anchors as token ids, and where they come from."""

    source: str
    candidates: tuple[Prefix, ...]
    anchors: tuple[Continuation, ...]


def spread_over_lengths(anchors: Sequence[Continuation], count: int | None) -> list[Continuation]:
    """`count` anchors (None: all) at even steps through all of them sorted by length, so that none is favoured.

    Anchors whose response a token limit has cut away are never among them: no algorithm has anything to do there.
    """
    scorable = sorted((item for item in anchors if item.response_tokens), key=lambda item: len(item.ids))
    if count is None or count >= len(scorable):
        return scorable
    return [scorable[int((step + 0.5) * len(scorable) / count)] for step in range(count)]


def in_rounds(candidates: Sequence[Prefix], *, size: int, rounds: int) -> list[list[Prefix]]:
    """`size` candidates a round, no candidate twice; fewer rounds where there are not enough candidates.

    Raises UsageError if not even one round can be filled.
    """
    if len(candidates) < size:
        raise UsageError(
            f"--candidates {size} a round are wanted and the pool has {len(candidates)}: lower it or give a larger pool"
        )
    possible = min(rounds, len(candidates) // size)
    return [list(candidates[index * size : (index + 1) * size]) for index in range(possible)]
