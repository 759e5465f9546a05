"""A pack as tensors: positions behind the prefixes, entries counted from the pack's start, pieces for the attention."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from nuggets.engine.attention_kernels import Pieces
from nuggets.engine.interface import Continuation
from nuggets.engine.pack_tensors import assemble, prefix_positions, to_device
from nuggets.engine.packing import Segment, lay_out, plan_packs

CPU = torch.device("cpu")
LAYOUT = lay_out([Continuation((10, 11, 12, 13), 2), Continuation((20, 21, 22), 1), Continuation((30, 31, 32, 33), 3)])


def test_the_owner_of_an_entry_is_its_member() -> None:
    assert to_device(LAYOUT, CPU).owners.tolist() == [0, 0, 1, 1, 2]


def test_a_pack_over_the_end_of_one_prefix_and_the_start_of_the_next_by_hand() -> None:
    tensors = assemble(to_device(LAYOUT, CPU), (Segment(1, 1, 3), Segment(2, 0, 1)), prefix_lengths=[6, 5, 9])
    assert tensors.ids.tolist() == [10, 11, 12, 13, 30, 31, 32, 33, 20, 21, 22]
    assert tensors.positions.tolist() == [5, 6, 7, 8, 5, 6, 7, 8, 9, 10, 11]
    assert tensors.scored.tolist() == [1, 2, 6, 8, 9]
    assert tensors.targets.tolist() == [12, 13, 33, 21, 22]
    assert tensors.owners.tolist() == [0, 0, 1, 2, 2]
    assert tensors.members == 3
    assert tensors.own == Pieces((4, 4, 3), (4, 4, 3), causal=True)
    # All continuations behind a prefix are one piece of queries, which sees all its keys; the first 6 are prefix 0's.
    assert tensors.shared == Pieces((8, 3), (5, 9), causal=False, key_start=6)


def test_runs_behind_the_same_prefix_by_hand() -> None:
    """Nothing is wanted behind prefix 2, whose keys were not computed; behind prefix 1, all but the middle member."""
    pack = (Segment(1, 0, 1), Segment(1, 2, 3), Segment(3, 1, 2))
    tensors = assemble(to_device(LAYOUT, CPU), pack, prefix_lengths=[6, 5, 0, 9])
    assert tensors.ids.tolist() == [20, 21, 22, 30, 31, 32, 33, 10, 11, 12, 13]
    assert tensors.positions.tolist() == [5, 6, 7, 5, 6, 7, 8, 9, 10, 11, 12]
    assert tensors.scored.tolist() == [0, 1, 5, 8, 9]
    assert tensors.targets.tolist() == [21, 22, 33, 12, 13]
    assert tensors.owners.tolist() == [0, 0, 1, 2, 2]
    assert tensors.own == Pieces((3, 4, 4), (3, 4, 4), causal=True)
    assert tensors.shared == Pieces((7, 4), (5, 9), causal=False, key_start=6)


def test_behind_an_empty_prefix_there_is_nothing_shared() -> None:
    tensors = assemble(to_device(LAYOUT, CPU), (Segment(0, 0, 1),), prefix_lengths=[0])
    assert tensors.positions.tolist() == [0, 1, 2]
    assert tensors.shared is None


def test_positions_of_prefixes_laid_end_to_end() -> None:
    assert prefix_positions([3, 1, 2], CPU).tolist() == [0, 1, 2, 0, 0, 1]
    assert prefix_positions([3, 1, 2], CPU, behind_themselves=True).tolist() == [3, 4, 5, 1, 2, 3]


@given(
    st.lists(st.tuples(st.integers(2, 9), st.integers(1, 8)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(1, 9), st.sets(st.integers(0, 11))), min_size=1, max_size=5),
    st.integers(1, 50),
)
def test_any_pack_is_what_its_pairs_are_one_by_one(
    shapes: list[tuple[int, int]], prefixes: list[tuple[int, set[int]]], token_budget: int
) -> None:
    continuations = [
        Continuation(tuple(range(100 * index, 100 * index + length)), min(start, length - 1))
        for index, (length, start) in enumerate(shapes)
    ]
    layout = lay_out(continuations)
    laid_out = to_device(layout, CPU)
    wanted = [sorted(member for member in members if member < len(shapes)) for _, members in prefixes]
    prefix_lengths = [length if members else 0 for (length, _), members in zip(prefixes, wanted, strict=True)]
    for pack in plan_packs(layout, wanted, token_budget=token_budget):
        tensors = assemble(laid_out, pack, prefix_lengths)
        pairs = [
            (prefix_lengths[run.prefix], continuations[layout.columns[member]])
            for run in pack
            for member in range(run.first, run.stop)
        ]
        assert tensors.members == len(pairs)
        assert tensors.ids.tolist() == [token for _, item in pairs for token in item.ids]
        assert tensors.positions.tolist() == [before + at for before, item in pairs for at in range(len(item.ids))]
        read_off: list[list[int]] = [[] for _ in pairs]
        for entry, target, owner in zip(tensors.scored, tensors.targets, tensors.owners, strict=True):
            assert tensors.ids[entry + 1] == target
            read_off[owner].append(int(target))
        assert read_off == [list(item.ids[item.response_start :]) for _, item in pairs]
        assert tensors.own.queries == tuple(len(item.ids) for _, item in pairs)
        assert tensors.shared is not None
        assert sum(tensors.shared.queries) == len(tensors.ids)
        one_after_another = sorted({run.prefix for run in pack})
        assert tensors.shared.keys == tuple(prefix_lengths[prefix] for prefix in one_after_another)
        assert sum(tensors.shared.keys) == sum(prefix_lengths[pack[0].prefix : pack[-1].prefix + 1])
        assert tensors.shared.key_start == sum(prefix_lengths[: pack[0].prefix])
