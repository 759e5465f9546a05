"""Continuations laid end to end: what a forward pass is given, and what is read off where."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.scoring.door import Continuation
from nuggets.scoring.packing import Pack, Segments, pack_continuations

LONG = Continuation((10, 11, 12, 13), 2)
SHORT = Continuation((20, 21, 22), 1)
EQUAL = Continuation((30, 31, 32, 33), 3)
CUT_AWAY = Continuation((40, 41), 5)


def test_pack_of_one_continuation() -> None:
    assert pack_continuations([LONG], token_budget=100) == [
        Pack(
            members=(0,),
            ids=(10, 11, 12, 13),
            offsets=(0, 1, 2, 3),
            segments=(Segments(start=0, count=1, length=4),),
            scored=(1, 2),  # the token left of each response token
            targets=(12, 13),
            owners=(0, 0),
        )
    ]


def test_equal_lengths_stand_together_behind_shorter_ones() -> None:
    assert pack_continuations([LONG, CUT_AWAY, SHORT, EQUAL], token_budget=100) == [
        Pack(
            members=(2, 0, 3),
            ids=(20, 21, 22, 10, 11, 12, 13, 30, 31, 32, 33),
            offsets=(0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3),
            segments=(Segments(start=0, count=1, length=3), Segments(start=3, count=2, length=4)),
            scored=(0, 1, 4, 5, 9),
            targets=(21, 22, 12, 13, 33),
            owners=(2, 2, 0, 0, 3),
        )
    ]


def test_a_pack_is_closed_when_the_next_continuation_would_exceed_the_budget() -> None:
    packs = pack_continuations([LONG, CUT_AWAY, SHORT, EQUAL], token_budget=7)
    assert packs == [
        Pack(
            members=(2, 0),
            ids=(20, 21, 22, 10, 11, 12, 13),
            offsets=(0, 1, 2, 0, 1, 2, 3),
            segments=(Segments(0, 1, 3), Segments(3, 1, 4)),
            scored=(0, 1, 4, 5),
            targets=(21, 22, 12, 13),
            owners=(2, 2, 0, 0),
        ),
        Pack(
            members=(3,),
            ids=(30, 31, 32, 33),
            offsets=(0, 1, 2, 3),
            segments=(Segments(0, 1, 4),),
            scored=(2,),
            targets=(33,),
            owners=(3,),
        ),
    ]


def test_a_continuation_longer_than_the_budget_gets_a_pack_of_its_own() -> None:
    packs = pack_continuations([LONG, SHORT, EQUAL], token_budget=1)
    assert [pack.members for pack in packs] == [(1,), (0,), (2,)]


@pytest.mark.parametrize("continuations", [[], [CUT_AWAY], [CUT_AWAY, Continuation((1, 2), 2)]])
def test_no_packs_where_nothing_can_be_scored(continuations: list[Continuation]) -> None:
    assert pack_continuations(continuations, token_budget=8) == []


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
some_budget = st.integers(1, 40)


@given(some_continuations, some_budget)
def test_every_scorable_continuation_is_in_exactly_one_pack(continuations: list[Continuation], budget: int) -> None:
    members = [index for pack in pack_continuations(continuations, token_budget=budget) for index in pack.members]
    assert sorted(members) == [index for index, item in enumerate(continuations) if item.response_tokens]


@given(some_continuations, some_budget)
def test_packs_keep_to_the_budget_and_no_two_neighbours_would_fit_in_one(
    continuations: list[Continuation], budget: int
) -> None:
    packs = pack_continuations(continuations, token_budget=budget)
    assert all(len(pack.ids) <= budget or len(pack.members) == 1 for pack in packs)
    for left, right in pairwise(packs):
        assert len(left.ids) + len(continuations[right.members[0]].ids) > budget


@given(some_continuations, some_budget)
def test_segments_and_offsets_tile_a_pack_with_its_members(continuations: list[Continuation], budget: int) -> None:
    for pack in pack_continuations(continuations, token_budget=budget):
        lengths = [item.length for item in pack.segments for _ in range(item.count)]
        assert lengths == [len(continuations[index].ids) for index in pack.members]
        assert len({item.length for item in pack.segments}) == len(pack.segments)  # equal lengths are one segment
        starts = [item.start for item in pack.segments]
        assert starts == [sum(i.count * i.length for i in pack.segments[:n]) for n in range(len(starts))]
        assert pack.offsets == tuple(offset for length in lengths for offset in range(length))
        assert pack.ids == tuple(token for index in pack.members for token in continuations[index].ids)


@given(some_continuations, some_budget)
def test_each_response_token_is_read_off_once_at_the_token_on_its_left(
    continuations: list[Continuation], budget: int
) -> None:
    found: dict[int, list[tuple[int, int]]] = {}
    for pack in pack_continuations(continuations, token_budget=budget):
        assert len(pack.scored) == len(pack.targets) == len(pack.owners)
        for row, target, owner in zip(pack.scored, pack.targets, pack.owners, strict=True):
            assert pack.ids[row + 1] == target
            assert pack.ids[row] == continuations[owner].ids[pack.offsets[row]]
            found.setdefault(owner, []).append((pack.offsets[row] + 1, target))
    assert found == {
        index: [(place, item.ids[place]) for place in range(item.response_start, len(item.ids))]
        for index, item in enumerate(continuations)
        if item.response_tokens
    }
