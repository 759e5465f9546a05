"""Continuations laid end to end, prefixes that share forward passes, and packs, compared with layouts made by hand."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.engine.interface import Continuation
from nuggets.engine.packing import (
    Layout,
    Pack,
    Request,
    Segment,
    group_requests,
    lay_out,
    plan_packs,
    requests_for,
    share_opening,
    with_wanted,
)

LONG = Continuation((10, 11, 12, 13), 2)
SHORT = Continuation((20, 21, 22), 1)
EQUAL = Continuation((30, 31, 32, 33), 3)
CUT_AWAY = Continuation((40, 41), 5)


def of_lengths(*lengths: int) -> Layout:
    return lay_out([Continuation(tuple(range(length)), 1) for length in lengths])


def pairs_of(pack: Pack) -> list[tuple[int, int]]:
    """(prefix, member) in their order in the pack."""
    return [(run.prefix, member) for run in pack for member in range(run.first, run.stop)]


def tokens_of(layout: Layout, pack: Pack) -> int:
    return sum(layout.length(member) for _, member in pairs_of(pack))


def behind(layout: Layout, prefixes: int) -> list[range]:
    """All members, for each of the prefixes."""
    return [range(len(layout.columns))] * prefixes


def test_layout_of_one_continuation() -> None:
    assert lay_out([LONG]) == Layout(
        columns=(0,),
        starts=(0, 4),
        response_starts=(0, 2),
        ids=(10, 11, 12, 13),
        offsets=(0, 1, 2, 3),
        scored=(1, 2),  # the token left of each response token
        targets=(12, 13),
    )


def test_packs_are_ordered_by_length_without_what_is_cut_away() -> None:
    layout = lay_out([LONG, CUT_AWAY, SHORT, EQUAL])
    assert layout == Layout(
        columns=(2, 0, 3),
        starts=(0, 3, 7, 11),
        response_starts=(0, 2, 4, 5),
        ids=(20, 21, 22, 10, 11, 12, 13, 30, 31, 32, 33),
        offsets=(0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3),
        scored=(0, 1, 4, 5, 9),
        targets=(21, 22, 12, 13, 33),
    )
    assert layout.tokens([0, 2]) == 7
    assert [layout.length(member) for member in range(3)] == [3, 4, 4]


@pytest.mark.parametrize("continuations", [[], [CUT_AWAY], [CUT_AWAY, Continuation((1, 2), 2)]])
def test_nothing_is_laid_out_and_no_pack_planned_where_nothing_can_be_scored(
    continuations: list[Continuation],
) -> None:
    layout = lay_out(continuations)
    assert layout == Layout((), (0,), (0,), (), (), (), ())
    assert plan_packs(layout, behind(layout, 3), token_budget=8) == []


def test_response_start_0_is_refused_because_nothing_predicts_the_first_token() -> None:
    with pytest.raises(ValueError, match="response_start=0"):
        Continuation((1, 2), 0)


@pytest.mark.parametrize(("length", "start", "scored"), [(5, 1, 4), (5, 4, 1), (5, 5, 0), (5, 9, 0)])
def test_response_tokens_are_those_from_response_start_on(length: int, start: int, scored: int) -> None:
    assert Continuation(tuple(range(length)), start).response_tokens == scored


some_continuations = st.lists(
    st.builds(
        Continuation,
        st.lists(st.integers(0, 99), min_size=1, max_size=12).map(tuple),
        st.integers(1, 14),
    ),
    max_size=30,
)
some_layout = st.lists(st.integers(2, 12), min_size=1, max_size=30).map(lambda lengths: of_lengths(*lengths))
some_budget = st.integers(1, 60)
some_prefixes = st.integers(1, 7)


@given(some_continuations)
def test_every_scorable_continuation_is_laid_out_once_shortest_first(continuations: list[Continuation]) -> None:
    layout = lay_out(continuations)
    assert sorted(layout.columns) == [index for index, item in enumerate(continuations) if item.response_tokens]
    lengths = [layout.length(member) for member in range(len(layout.columns))]
    assert lengths == sorted(lengths) == [len(continuations[index].ids) for index in layout.columns]
    assert layout.ids == tuple(token for index in layout.columns for token in continuations[index].ids)
    assert layout.offsets == tuple(offset for length in lengths for offset in range(length))


@given(some_continuations)
def test_each_response_token_is_read_off_once_at_the_token_on_its_left(continuations: list[Continuation]) -> None:
    layout = lay_out(continuations)
    assert len(layout.scored) == len(layout.targets) == layout.response_starts[-1]
    for member, column in enumerate(layout.columns):
        item = continuations[column]
        entries = range(layout.response_starts[member], layout.response_starts[member + 1])
        read_off = [(layout.scored[entry] - layout.starts[member] + 1, layout.targets[entry]) for entry in entries]
        assert read_off == [(place, item.ids[place]) for place in range(item.response_start, len(item.ids))]


def test_the_shared_opening_ends_before_the_token_before_a_response() -> None:
    long, short = Continuation((1, 2, 3, 4, 5), 4), Continuation((1, 2, 3, 9), 3)
    assert share_opening([long, short]) == ((1, 2), [Continuation((3, 4, 5), 2), Continuation((3, 9), 1)])
    assert share_opening([long]) == ((1, 2, 3), [Continuation((4, 5), 1)])
    assert share_opening([long, Continuation((1, 7, 8), 2)]) == (
        (1,),
        [Continuation((2, 3, 4, 5), 3), Continuation((7, 8), 1)],
    )


def test_a_continuation_that_is_not_scored_has_no_say_in_what_all_begin_with() -> None:
    assert share_opening([LONG, CUT_AWAY]) == ((10,), [Continuation((11, 12, 13), 1), CUT_AWAY])
    assert share_opening([CUT_AWAY]) == ((), [CUT_AWAY])
    assert share_opening([]) == ((), [])


@given(
    st.lists(
        st.builds(Continuation, st.lists(st.integers(0, 1), min_size=1, max_size=9).map(tuple), st.integers(1, 10)),
        max_size=6,
    )
)
def test_opening_and_rest_are_the_continuation_and_no_opening_is_longer(
    continuations: list[Continuation],
) -> None:
    opening, without = share_opening(continuations)
    assert len(without) == len(continuations)
    scorable = [(item, rest) for item, rest in zip(continuations, without, strict=True) if item.response_tokens]
    for item, rest in scorable:
        assert (*opening, *rest.ids) == item.ids
        assert rest.response_tokens == item.response_tokens
    assert all(rest == item for item, rest in zip(continuations, without, strict=True) if not item.response_tokens)
    if scorable:
        at_a_response = any(rest.response_start == 1 for _, rest in scorable)
        assert at_a_response or len({rest.ids[0] for _, rest in scorable}) > 1


def grouped(lengths: Sequence[int], *, layout_tokens: int, token_budget: int, alone: Sequence[int] = ()) -> list[str]:
    """Each group as the lengths of its prefixes, behind all of which everything is wanted."""
    groups = group_requests(
        [Request((0,) * length, (0,), (0,)) for length in lengths],
        of_lengths(layout_tokens),
        token_budget=token_budget,
        prefix_budget=lambda: token_budget,
        alone=lambda request: len(request.prefix) in alone,
    )
    return [" ".join(str(len(request.prefix)) for request in group) for group in groups]


def test_a_group_has_as_many_prefixes_as_fill_four_packs() -> None:
    assert grouped([1] * 7, layout_tokens=10, token_budget=10) == ["1 1 1 1", "1 1 1"]
    assert grouped([1] * 7, layout_tokens=25, token_budget=10) == ["1 1", "1 1", "1 1", "1"]  # 40 tokens: one and a bit
    assert grouped([1] * 3, layout_tokens=999, token_budget=10) == ["1", "1", "1"]


def test_a_group_keeps_to_the_budget_unless_it_is_a_single_prefix() -> None:
    assert grouped([4, 6, 1, 30, 2, 8, 1], layout_tokens=2, token_budget=10) == ["4 6", "1", "30", "2 8", "1"]


def test_some_prefixes_are_a_group_of_their_own() -> None:
    assert grouped([1, 0, 2, 3, 0, 0, 4], layout_tokens=2, token_budget=99, alone=[0]) == [
        "1",
        "0",
        "2 3",
        "0",
        "0",
        "4",
    ]


def test_no_prefixes_make_no_group() -> None:
    assert grouped([], layout_tokens=2, token_budget=9) == []


def test_what_a_group_holds_counts_by_what_is_wanted() -> None:
    """Four packs of 10 tokens, from continuations of 15 and 5 tokens: 40 tokens are reached by the third prefix."""
    layout = of_lengths(15, 5)  # whose members are 5 and 15 tokens long
    wanted = [(0, 1), (1,), (0,), (0,), (1,), (0, 1)]
    groups = group_requests(
        [Request((0,), (), members) for members in wanted],
        layout,
        token_budget=10,
        prefix_budget=lambda: 10,
        alone=lambda request: False,
    )
    assert [[request.members for request in group] for group in groups] == [
        [(0, 1), (1,), (0,)],
        [(0,), (1,), (0, 1)],
    ]


def endless() -> Iterator[tuple[int, ...]]:
    while True:
        yield (7, 7)


def counted(items: Iterable[Any], taken: list[Any]) -> Iterator[Any]:
    for item in items:
        taken.append(item)
        yield item


def test_a_group_is_there_as_soon_as_the_first_prefix_behind_it_is() -> None:
    asked: list[Request] = []
    requests = counted((Request(prefix, (0,), (0,)) for prefix in endless()), asked)
    groups = group_requests(
        requests, of_lengths(20), token_budget=10, prefix_budget=lambda: 10, alone=lambda request: False
    )
    assert asked == []
    for number in (1, 2, 3):
        assert len(next(groups)) == 2
        assert len(asked) == 2 * number + 1


def test_a_group_ends_even_if_nothing_is_ever_wanted() -> None:
    requests = (Request((), (), ()) for _ in endless())
    groups = group_requests(
        requests, of_lengths(20), token_budget=10, prefix_budget=lambda: 10, alone=lambda request: False
    )
    assert [len(next(groups)) for _ in range(3)] == [10, 10, 10]


def test_a_request_names_what_is_wanted_by_its_place_in_the_layout() -> None:
    layout = lay_out([LONG, CUT_AWAY, SHORT, EQUAL])  # in which SHORT stands first
    each = [((1,), (3, 2)), ((2,), (1, 0)), ((3,), ()), ((), (1,)), ((), range(4))]
    assert list(requests_for(layout, each)) == [
        Request((1,), (3, 2), [0, 2], []),
        Request((2,), (1, 0), [1], []),
        Request((), (), [], []),  # nothing to compute, so no demonstration either
        Request((), (1,), [], []),
        Request((), range(4), [0, 1, 2], []),
    ]


def test_what_ends_beyond_the_context_is_not_packed() -> None:
    layout = of_lengths(3, 6, 2, 6, 9)  # in order: 2, 3, 6, 6 and 9 tokens
    each = [((1,) * length, (4, 3, 2, 0)) for length in (0, 1, 4, 7, 8)]
    assert [
        (len(request.demonstration), request.members, request.plain)
        for request in requests_for(layout, each, context=10)
    ] == [
        (0, [0, 1, 3, 4], []),
        (1, [0, 1, 3, 4], []),
        (4, [0, 1, 3], [4]),
        (7, [0, 1], [3, 4]),
        (8, [0], [1, 3, 4]),
    ]
    (request,) = requests_for(layout, [((1,) * 9, (4,))], context=10)
    assert (request.prefix, request.demonstration, request.plain) == ((1,) * 9, (), [4])


def test_prefixes_and_what_is_wanted_behind_them_are_asked_for_together() -> None:
    prefixes: list[Any] = []
    wanted: list[Any] = []
    each = with_wanted(counted(endless(), prefixes), counted(iter([[0], [], [2, 1]]), wanted), 3)
    assert [next(each), next(each)] == [((7, 7), (0,)), ((7, 7), ())]
    assert len(prefixes) == len(wanted) == 2
    assert list(with_wanted([(1,), (2,)], None, 2)) == [((1,), range(2)), ((2,), range(2))]


@pytest.mark.parametrize("indices", [[3], [-1], [0, 1, 0]])
def test_an_index_of_nothing_and_one_given_twice_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="wanted="):
        list(with_wanted([()], [indices], 3))


some_wanted = st.lists(st.sets(st.integers(0, 29)), min_size=1, max_size=8)


def among(layout: Layout, wanted: list[set[int]]) -> list[list[int]]:
    """What of this there is in the layout, in order."""
    return [sorted(member for member in members if member < len(layout.columns)) for members in wanted]


@given(st.lists(st.integers(0, 20), max_size=8), some_wanted, some_layout, some_budget, st.sets(st.integers(0, 20)))
def test_groups_are_consecutive_within_their_limits_and_as_large_as_these_allow(
    lengths: list[int], wanted: list[set[int]], layout: Layout, token_budget: int, alone: set[int]
) -> None:
    requests = [
        Request((index,) * length, (), members)
        for index, (length, members) in enumerate(zip(lengths, among(layout, wanted), strict=False))
    ]
    groups = list(
        group_requests(
            requests,
            layout,
            token_budget=token_budget,
            prefix_budget=lambda: token_budget,
            alone=lambda request: len(request.prefix) in alone,
        )
    )
    assert [request for group in groups for request in group] == requests

    def places(group: Sequence[Request]) -> int:
        return sum(len(request.prefix) if request.members else 1 for request in group)

    def packs(group: Sequence[Request]) -> float:
        return sum(layout.tokens(request.members) for request in group) / token_budget

    for group in groups:
        assert packs(group[:-1]) < 4
        assert len(group) == 1 or places(group) <= token_budget
        assert len(group) == 1 or not {len(request.prefix) for request in group} & alone
    for group, following in pairwise(groups):
        apart = {len(group[-1].prefix), len(following[0].prefix)} & alone
        assert apart or packs(group) >= 4 or places([*group, following[0]]) > token_budget


def test_packs_by_hand() -> None:
    """Members of 2, 3 and 3 tokens behind two prefixes: 16 tokens are two packs of 8, or within 6 three or four."""
    layout = of_lengths(3, 2, 3)
    assert plan_packs(layout, behind(layout, 2), token_budget=99) == [(Segment(0, 0, 3), Segment(1, 0, 3))]
    assert plan_packs(layout, behind(layout, 2), token_budget=10) == [(Segment(0, 0, 3),), (Segment(1, 0, 3),)]
    assert plan_packs(layout, behind(layout, 2), token_budget=6) == [
        (Segment(0, 0, 2),),
        (Segment(0, 2, 3), Segment(1, 0, 1)),
        (Segment(1, 1, 3),),
    ]
    assert plan_packs(layout, behind(layout, 1), token_budget=8) == [(Segment(0, 0, 3),)]


def test_what_needs_two_packs_is_cut_in_the_middle_and_not_where_the_first_is_full() -> None:
    packs = plan_packs(of_lengths(*[10] * 6), [range(6)], token_budget=50)
    assert packs == [(Segment(0, 0, 3),), (Segment(0, 3, 6),)]


def test_a_continuation_longer_than_the_budget_gets_a_pack_of_its_own() -> None:
    layout = of_lengths(4, 3, 4)
    assert plan_packs(layout, behind(layout, 1), token_budget=1) == [
        (Segment(0, 0, 1),),
        (Segment(0, 1, 2),),
        (Segment(0, 2, 3),),
    ]
    assert plan_packs(of_lengths(2, 2, 9), [range(3)], token_budget=4) == [(Segment(0, 0, 2),), (Segment(0, 2, 3),)]


def test_a_pack_may_hold_what_is_left_of_one_prefix_and_the_whole_of_the_next_two() -> None:
    packs = plan_packs(of_lengths(2, 2, 2), [range(3)] * 5, token_budget=16)
    assert packs == [
        (Segment(0, 0, 3), Segment(1, 0, 3), Segment(2, 0, 2)),
        (Segment(2, 2, 3), Segment(3, 0, 3), Segment(4, 0, 3)),
    ]


@given(some_layout, some_prefixes, some_budget)
def test_every_member_is_behind_every_prefix_exactly_once_and_in_order(
    layout: Layout, prefixes: int, token_budget: int
) -> None:
    packs = plan_packs(layout, behind(layout, prefixes), token_budget=token_budget)
    assert [pair for pack in packs for pair in pairs_of(pack)] == [
        (prefix, member) for prefix in range(prefixes) for member in range(len(layout.columns))
    ]
    assert all(run.first < run.stop for pack in packs for run in pack)
    assert all(len({run.prefix for run in pack}) == len(pack) for pack in packs)  # one run per prefix


def test_packs_of_some_members_by_hand() -> None:
    """4 + 2 + 5 tokens within 8: two packs, of which the second begins nearest to 5.5."""
    layout = of_lengths(2, 2, 2, 3)
    wanted = [(0, 2), (), (1,), (0, 3)]
    assert plan_packs(layout, wanted, token_budget=99) == [
        (Segment(0, 0, 1), Segment(0, 2, 3), Segment(2, 1, 2), Segment(3, 0, 1), Segment(3, 3, 4))
    ]
    assert plan_packs(layout, wanted, token_budget=8) == [
        (Segment(0, 0, 1), Segment(0, 2, 3), Segment(2, 1, 2)),
        (Segment(3, 0, 1), Segment(3, 3, 4)),
    ]
    assert plan_packs(layout, [(), ()], token_budget=8) == []


@given(some_layout, some_wanted, some_budget)
def test_each_wanted_pair_is_in_exactly_one_pack_and_no_other_pair_is(
    layout: Layout, wanted: list[set[int]], token_budget: int
) -> None:
    needed = among(layout, wanted)
    packs = plan_packs(layout, needed, token_budget=token_budget)
    assert [pair for pack in packs for pair in pairs_of(pack)] == [
        (prefix, member) for prefix, members in enumerate(needed) for member in members
    ]
    assert all(pack and all(segment.first < segment.stop for segment in pack) for pack in packs)
    for pack in packs:
        assert tokens_of(layout, pack) <= token_budget or len(pairs_of(pack)) == 1
        # Neighbours are one segment.
        assert all(left.prefix != right.prefix or left.stop < right.first for left, right in pairwise(pack))


@given(some_layout, some_prefixes, some_budget)
def test_packs_keep_to_the_budget_unless_they_hold_a_single_continuation(
    layout: Layout, prefixes: int, token_budget: int
) -> None:
    for pack in plan_packs(layout, behind(layout, prefixes), token_budget=token_budget):
        assert tokens_of(layout, pack) <= token_budget or len(pairs_of(pack)) == 1


@given(some_layout, some_prefixes, st.integers(120, 2000))
def test_there_are_hardly_more_packs_than_needed_and_they_are_of_about_equal_size(
    layout: Layout, prefixes: int, token_budget: int
) -> None:
    """Continuations have at most a tenth of the budget, so a pack of which nothing is left over is 0.9 full."""
    sizes = [
        tokens_of(layout, pack) for pack in plan_packs(layout, behind(layout, prefixes), token_budget=token_budget)
    ]
    needed = ceil(prefixes * len(layout.ids) / token_budget)
    assert needed <= len(sizes) <= 1.12 * needed + 1
    longest = layout.length(len(layout.columns) - 1)
    *all_but_last, last = sizes
    # Either end of a pack is at most half a continuation away from its even share.
    assert max(all_but_last, default=0) - min(all_but_last, default=0) <= 2 * longest
    assert last <= max(all_but_last, default=last) + longest
