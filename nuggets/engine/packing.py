"""Which tokens share a forward pass: continuations end to end without padding, behind the prefixes of a group. Pure.

A call's continuations have one `Layout`. Each prefix with what is wanted behind it is a `Request`; consecutive requests
form a group, whose prefixes are computed in one pass. The group's continuations are cut into packs, one pass each.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from nuggets.engine.interface import Continuation

_GROUP_PACKS = 4  # packs that a group fills: the last one is filled in part only, which then is a small share


@dataclass(frozen=True, slots=True)
class Layout:
    """Continuations end to end, shortest first; those without response tokens are left out.

    A member is a continuation's index in this order. Lists with one entry more than there are members hold where each
    member begins and, last, where the list ends. Entry `r` of `scored` is a token whose next token, `targets[r]`,
    belongs to a response.
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
        """Tokens of several continuations."""
        return sum(self.length(member) for member in members)


@dataclass(frozen=True, slots=True)
class Segment:
    """Members `first` to `stop` (excluded) of a layout, behind prefix number `prefix` of a group."""

    prefix: int
    first: int
    stop: int


Pack = tuple[Segment, ...]  # shares one forward pass


@dataclass(frozen=True, slots=True)
class Request:
    """A prefix, the indices of the continuations wanted behind it, and those of them that are members, in order.

    Members that are too long to be packed behind this prefix are `plain`. A request without members of either kind
    needs no computation, and its prefix is empty, too.
    """

    prefix: Sequence[int]
    wanted: Sequence[int]
    members: Sequence[int]
    plain: Sequence[int] = ()

    @property
    def demonstration(self) -> Sequence[int]:
        """The tokens that are computed once for all members; none where there are no members."""
        return self.prefix if self.members else ()


def share_opening(continuations: Sequence[Continuation]) -> tuple[tuple[int, ...], list[Continuation]]:
    """The leading tokens that all scorable continuations share, and the continuations without them.

    Prompts begin alike ("Instruction:", a chat template's first tokens): the shared tokens can follow each prefix
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
    """The layout of a call's continuations. Equal lengths are neighbours, so that their attention is one call."""
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
            start + offset
            for start, item in zip(starts, members, strict=False)
            for offset in range(item.response_start - 1, len(item.ids) - 1)
        ),
        targets=tuple(token for item in members for token in item.ids[item.response_start :]),
    )


def with_wanted(
    prefixes: Iterable[Sequence[int]], wanted: Iterable[Sequence[int]] | None, continuations: int
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Each prefix with the indices that are wanted behind it: all `continuations` where `wanted` is None.

    Raises ValueError as LanguageModel documents, and for an index that occurs twice or is not one of a continuation.
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
    layout: Layout, prefixes: Iterable[tuple[Sequence[int], Sequence[int]]], *, context: int | None = None
) -> Iterator[Request]:
    """The requests of prefixes, each given with the indices that are wanted behind it.

    Members that would end beyond the `context` together with their prefix are not packed.
    """
    member_of = {column: member for member, column in enumerate(layout.columns)}
    lengths = [layout.length(member) for member in range(len(layout.columns))]  # shortest first
    for prefix, wanted in prefixes:
        members = sorted(member_of[index] for index in wanted if index in member_of)
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

    A group has as many requests as fill a few packs of the token budget, within the budget for the prefixes
    themselves. That one is called for each request, because it falls when memory runs out. Requests for which `alone`
    is true form groups of one.
    """
    group: list[Request] = []
    tokens = behind = 0
    for request in requests:
        # A request that wants nothing counts as a token, too, or a group of such requests would never be full.
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


def plan_packs(layout: Layout, wanted: Sequence[Sequence[int]], *, token_budget: int) -> list[Pack]:
    """The members, in order, wanted behind each of a group's prefixes; in packs of about equal size within the budget.

    A continuation that is longer than the budget gets a pack to itself.
    """
    pairs = [(prefix, member) for prefix, members in enumerate(wanted) for member in members]
    if not pairs:
        return []
    total = layout.tokens(member for _, member in pairs)
    even = total / ceil(total / token_budget)
    packs: list[Pack] = []
    first = before = tokens = 0  # the pair that the pack begins with; tokens of all packs, and of this one
    for index, (_, member) in enumerate(pairs):
        length = layout.length(member)
        # A pack ends where it is nearest to its even share, so that none is much smaller than the others.
        if tokens and (tokens + length > token_budget or before + length / 2 > (len(packs) + 1) * even):
            packs.append(_segments(pairs[first:index]))
            first, tokens = index, 0
        tokens += length
        before += length
    packs.append(_segments(pairs[first:]))
    return packs


def _segments(pairs: Sequence[tuple[int, int]]) -> Pack:
    segments: list[Segment] = []
    for prefix, member in pairs:
        if segments and segments[-1].prefix == prefix and segments[-1].stop == member:
            segments[-1] = Segment(prefix, segments[-1].first, member + 1)
        else:
            segments.append(Segment(prefix, member, member + 1))
    return tuple(segments)
