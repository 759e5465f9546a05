"""Continuations laid end to end without padding, so that linear layers see useful tokens only. Pure."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from nuggets.engine.interface import Continuation


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
class Segment:
    """Members `first` to `stop` (excluded) of a layout, behind prefix number `prefix` of a group."""

    prefix: int
    first: int
    stop: int


Pack = tuple[Segment, ...]  # what shares one forward pass


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
    runs: list[Segment] = []
    for prefix, member in pairs:
        if runs and runs[-1].prefix == prefix and runs[-1].stop == member:
            runs[-1] = Segment(prefix, runs[-1].first, member + 1)
        else:
            runs.append(Segment(prefix, member, member + 1))
    return tuple(runs)


_GROUP_PACKS = 4  # a group fills so many packs, so that what is left over in the last one is a small share


@dataclass(frozen=True, slots=True)
class Request:
    """A prefix, the indices of the continuations wanted behind it, and those of them that are members, in order.

    Members that are too long to be packed behind this prefix are `plain`. Where there are neither these nor others,
    nothing has to be computed and the prefix is empty, too.
    """

    prefix: Sequence[int]
    wanted: Sequence[int]
    members: Sequence[int]
    plain: Sequence[int] = ()

    @property
    def demonstration(self) -> Sequence[int]:
        """The tokens that are computed once for all members: none where there are no members."""
        return self.prefix if self.members else ()


def each_with_wanted(
    prefixes: Iterable[Sequence[int]], wanted: Iterable[Sequence[int]] | None, continuations: int
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Each prefix with the indices of what is wanted behind it: all `continuations` where `wanted` is None.

    Raises ValueError as LanguageModel says, and if an index stands there twice or is none of a continuation.
    """
    if wanted is None:
        yield from ((prefix, range(continuations)) for prefix in prefixes)
        return
    for prefix, row in zip(prefixes, wanted, strict=True):
        indices = tuple(row)
        if len(set(indices)) < len(indices) or not all(0 <= index < continuations for index in indices):
            raise ValueError(f"wanted={indices}: each index at most once, and below {continuations}, the continuations")
        yield prefix, indices


def requests_for(
    layout: Layout, each: Iterable[tuple[Sequence[int], Sequence[int]]], *, context: int | None = None
) -> Iterator[Request]:
    """What prefixes, each with the indices of what is wanted behind it, ask of a layout.

    What would end beyond the `context` together with its prefix is not packed.
    """
    places = {column: member for member, column in enumerate(layout.columns)}
    lengths = [layout.length(member) for member in range(len(layout.columns))]  # shortest first
    for prefix, wanted in each:
        members = sorted(places[index] for index in wanted if index in places)
        fitting = len(members)
        if context is not None:
            fitting = bisect_right(members, context - len(prefix), key=lengths.__getitem__)
        yield Request(prefix if members else (), wanted, members[:fitting], members[fitting:])


def group_requests(
    requests: Iterable[Request],
    layout: Layout,
    *,
    token_budget: int,
    prefix_budget: Callable[[], int],
    alone: Callable[[Request], bool],
) -> Iterator[list[Request]]:
    """Consecutive requests whose prefixes are computed in one pass and whose continuations share packs.

    As many as fill some packs of the token budget, within the budget for the prefixes themselves, which is asked for
    each time because memory that runs out lowers it; `alone` says which are a group of their own.
    """
    group: list[Request] = []
    tokens = behind = 0
    for request in requests:
        # What wants nothing takes a place, too: or a group would wait for the end of however many of these there are.
        length = len(request.prefix) if request.members else 1
        full = behind >= _GROUP_PACKS * token_budget or tokens + length > prefix_budget()
        if group and (full or alone(request) or alone(group[-1])):
            yield group
            group, tokens, behind = [], 0, 0
        group.append(request)
        tokens += length
        behind += layout.tokens(request.members) + layout.tokens(request.plain)
    if group:
        yield group
