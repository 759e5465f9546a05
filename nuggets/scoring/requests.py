"""What is asked for: prefixes, each with what is wanted behind it, and which of them share forward passes. Pure."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from nuggets.scoring.packing import Layout

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
