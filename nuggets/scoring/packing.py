"""Continuations laid end to end without padding, so that linear layers see useful tokens only. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from nuggets.scoring.door import Continuation

_GROUP_PACKS = 4  # a group fills so many packs, so that what is left over in the last one is a small share


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

    @property
    def tokens(self) -> int:
        """Tokens behind each prefix."""
        return len(self.ids)

    def length(self, member: int) -> int:
        """Tokens of one continuation."""
        return self.starts[member + 1] - self.starts[member]


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


def group_prefixes(
    prefixes: Iterable[Sequence[int]],
    *,
    layout_tokens: int,
    token_budget: int,
    alone: Callable[[Sequence[int]], bool],
) -> Iterator[list[Sequence[int]]]:
    """Consecutive prefixes whose keys and values are computed in one pass and whose continuations share packs.

    As many as fill some packs, within the token budget for the prefixes themselves; `alone` says which are a group
    of their own.
    """
    wanted = ceil(_GROUP_PACKS * token_budget / layout_tokens)
    group: list[Sequence[int]] = []
    tokens = 0
    for prefix in prefixes:
        full = len(group) == wanted or tokens + len(prefix) > token_budget
        if group and (full or alone(prefix) or alone(group[-1])):
            yield group
            group, tokens = [], 0
        group.append(prefix)
        tokens += len(prefix)
    if group:
        yield group


def plan_packs(layout: Layout, *, prefixes: int, token_budget: int) -> list[Pack]:
    """All members behind each of a group's prefixes, in packs of about equal size within the token budget.

    A continuation that is longer than the budget gets a pack of its own.
    """
    if not layout.columns:
        return []
    members = len(layout.columns)
    total = prefixes * layout.tokens
    even = total / ceil(total / token_budget)
    packs: list[Pack] = []
    runs: list[Run] = []
    before = tokens = 0  # of all packs, and of the one that is being filled
    for prefix in range(prefixes):
        first = 0
        for member in range(members):
            length = layout.length(member)
            # A pack ends where it is nearest to its even share, so that none is much smaller than the others.
            if tokens and (tokens + length > token_budget or before + length / 2 > (len(packs) + 1) * even):
                if member > first:
                    runs.append(Run(prefix, first, member))
                packs.append(tuple(runs))
                runs, tokens, first = [], 0, member
            tokens += length
            before += length
        runs.append(Run(prefix, first, members))
    packs.append(tuple(runs))
    return packs


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
