"""Continuations laid end to end without padding, so that linear layers see useful tokens only. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from nuggets.scoring.door import Continuation


@dataclass(frozen=True, slots=True)
class Layout:
    """Continuations end to end, shortest first; what can't be scored (no response tokens) is left out.

    A member is a continuation's place in this order. Lists with one entry more than there are members hold where each
    begins and, last, where the list ends. Entry `r` of `scored` is a token whose next token, `targets[r]`, belongs to
    a response.
    """

    columns: tuple[int, ...]  # per member: its index in the caller's list
    starts: tuple[int, ...]  # per member and end: first token
    response_starts: tuple[int, ...]  # per member and end: first entry of `scored`
    ids: tuple[int, ...]
    offsets: tuple[int, ...]  # per token: its position within its continuation
    scored: tuple[int, ...]
    targets: tuple[int, ...]

    def length(self, member: int) -> int:
        """Tokens of one continuation."""
        return self.starts[member + 1] - self.starts[member]

    def tokens(self, members: Iterable[int]) -> int:
        """Tokens of some continuations."""
        return sum(self.length(member) for member in members)


@dataclass(frozen=True, slots=True)
class Run:
    """Members `first` to `stop` (excluded) of a layout, behind prefix number `prefix` of a group."""

    prefix: int
    first: int
    stop: int


Pack = tuple[Run, ...]  # what shares one forward pass


def share_opening(continuations: Sequence[Continuation]) -> tuple[tuple[int, ...], list[Continuation]]:
    """The leading tokens that all scorable continuations share, and the continuations without them.

    Prompts begin alike ("Instruction:", a chat template's first tokens): what they share can stand behind each prefix
    once, instead of once per continuation. Every continuation keeps a token before its response.
    """
    scorable = [item for item in continuations if item.response_tokens]
    if not scorable:
        return (), list(continuations)
    most = min(item.response_start for item in scorable) - 1
    shared = 0
    while shared < most and len({item.ids[shared] for item in scorable}) == 1:
        shared += 1
    without = [
        Continuation(item.ids[shared:], item.response_start - shared) if item.response_tokens else item
        for item in continuations
    ]
    return scorable[0].ids[:shared], without


def lay_out(continuations: Sequence[Continuation]) -> Layout:
    """The layout of some continuations. Equal lengths stand side by side, so that their attention is one call."""
    columns = [index for index, item in enumerate(continuations) if item.response_tokens]
    columns.sort(key=lambda index: (len(continuations[index].ids), index))
    members = [continuations[index] for index in columns]
    starts = tuple(accumulate((len(item.ids) for item in members), initial=0))
    return Layout(
        columns=tuple(columns),
        starts=starts,
        response_starts=tuple(accumulate((item.response_tokens for item in members), initial=0)),
        ids=tuple(token for item in members for token in item.ids),
        offsets=tuple(offset for item in members for offset in range(len(item.ids))),
        # The logits at a token predict the token after it: response token t is read off at t - 1.
        scored=tuple(
            start + place
            for start, item in zip(starts, members, strict=False)
            for place in range(item.response_start - 1, len(item.ids) - 1)
        ),
        targets=tuple(token for item in members for token in item.ids[item.response_start :]),
    )


def plan_packs(layout: Layout, wanted: Sequence[Sequence[int]], *, token_budget: int) -> list[Pack]:
    """The members, in order, wanted behind each of a group's prefixes; in packs of about equal size within the budget.

    A continuation that is longer than the budget gets a pack of its own.
    """
    pairs = [(prefix, member) for prefix, members in enumerate(wanted) for member in members]
    if not pairs:
        return []
    total = layout.tokens(member for _, member in pairs)
    even = total / ceil(total / token_budget)
    packs: list[Pack] = []
    first = before = tokens = 0  # the pair that the pack begins with; tokens of all packs, and of this one
    for place, (_, member) in enumerate(pairs):
        length = layout.length(member)
        # A pack ends where it is nearest to its even share, so that none is much smaller than the others.
        if tokens and (tokens + length > token_budget or before + length / 2 > (len(packs) + 1) * even):
            packs.append(_as_runs(pairs[first:place]))
            first, tokens = place, 0
        tokens += length
        before += length
    packs.append(_as_runs(pairs[first:]))
    return packs


def tokens_of(layout: Layout, pack: Pack) -> int:
    """Tokens of a pack's members."""
    return sum(layout.starts[run.stop] - layout.starts[run.first] for run in pack)


def halves(layout: Layout, pack: Pack) -> tuple[Pack, Pack] | None:
    """A pack cut in two of about equal size; None if it holds a single continuation."""
    pairs = [(run.prefix, member) for run in pack for member in range(run.first, run.stop)]
    if len(pairs) < 2:
        return None
    ends = list(accumulate(layout.length(member) for _, member in pairs))
    middle = min(range(1, len(pairs)), key=lambda cut: abs(2 * ends[cut - 1] - ends[-1]))
    return _as_runs(pairs[:middle]), _as_runs(pairs[middle:])


def _as_runs(pairs: Sequence[tuple[int, int]]) -> Pack:
    runs: list[Run] = []
    for prefix, member in pairs:
        if runs and runs[-1].prefix == prefix and runs[-1].stop == member:
            runs[-1] = Run(prefix, runs[-1].first, member + 1)
        else:
            runs.append(Run(prefix, member, member + 1))
    return tuple(runs)
