"""Continuations laid end to end without padding, so that linear layers see useful tokens only. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from nuggets.scoring.door import Continuation


@dataclass(frozen=True, slots=True)
class Segments:
    """`count` continuations of `length` tokens each that stand side by side from token `start` of a pack."""

    start: int
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class Pack:
    """Continuations that share one forward pass.

    `members` are their indices in the caller's list, in the order in which they are laid out. Row `r` of `scored`
    is a token whose next token, `targets[r]`, belongs to the response of member `owners[r]`.
    """

    members: tuple[int, ...]
    ids: tuple[int, ...]
    offsets: tuple[int, ...]  # position of each token within its continuation
    segments: tuple[Segments, ...]
    scored: tuple[int, ...]
    targets: tuple[int, ...]
    owners: tuple[int, ...]


def pack_continuations(continuations: Sequence[Continuation], *, token_budget: int) -> list[Pack]:
    """Packs of at most `token_budget` tokens (a longer continuation gets a pack of its own).

    Members are ordered by length, so that equal lengths stand together and their attention is one call. What can't
    be scored (no response tokens) is in no pack.
    """
    scorable = [index for index, item in enumerate(continuations) if item.response_tokens]
    scorable.sort(key=lambda index: (len(continuations[index].ids), index))
    packs: list[Pack] = []
    members: list[int] = []
    tokens = 0
    for index in scorable:
        length = len(continuations[index].ids)
        if members and tokens + length > token_budget:
            packs.append(_lay_out(members, continuations))
            members, tokens = [], 0
        members.append(index)
        tokens += length
    if members:
        packs.append(_lay_out(members, continuations))
    return packs


def _lay_out(members: Sequence[int], continuations: Sequence[Continuation]) -> Pack:
    ids: list[int] = []
    offsets: list[int] = []
    scored: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for index in members:
        item = continuations[index]
        start = len(ids)
        ids.extend(item.ids)
        offsets.extend(range(len(item.ids)))
        # The logits at a token predict the token after it: response token t is read off at t - 1.
        scored.extend(range(start + item.response_start - 1, start + len(item.ids) - 1))
        targets.extend(item.ids[item.response_start :])
        owners.extend([index] * item.response_tokens)
    segments: list[Segments] = []
    start = 0
    for length, group in groupby(members, key=lambda index: len(continuations[index].ids)):
        count = len(list(group))
        segments.append(Segments(start, count, length))
        start += count * length
    return Pack(
        tuple(members), tuple(ids), tuple(offsets), tuple(segments), tuple(scored), tuple(targets), tuple(owners)
    )
