"""Recovery when memory runs out, by one rule: drain, empty the cache, halve both budgets, do the group again.

The caller drains: nothing else is computed meanwhile, and no other keys and values are in memory. With the halved
budgets the group becomes several smaller ones; one that still does not fit is halved again, down
to a single pair. If that does not fit, the error names its size.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from nuggets.engine.memory import pair_too_large
from nuggets.engine.pack_tensors import DeviceLayout, PackSums, write_sums
from nuggets.engine.packing import Layout, Pack, Request, plan_packs

if TYPE_CHECKING:
    from nuggets.engine.packed import PackedEngine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Budgets:
    """Tokens of a forward pass, and of the demonstrations of a group."""

    tokens: int
    prefix: int

    @classmethod
    def of(cls, engine: "PackedEngine") -> Self:
        """An engine's budgets at this moment."""
        return cls(engine.token_budget, engine.prefix_budget)


def score_again(
    engine: "PackedEngine",
    requests: Sequence[Request],
    budgets: Budgets,
    on_device: DeviceLayout,
    sums: NDArray[np.float64],
) -> None:
    """Write the sums of a group that memory had no room for to `sums`, which has a row for each of its requests.

    `budgets`: those that the group was made with. Raises OutOfMemory if a single pair does not fit.
    """
    layout = on_device.layout
    failed = [(list(range(len(requests))), budgets)]  # rows of a group, and the budgets that it was made with
    while failed:
        rows, budgets = failed.pop()
        _halve_budgets(engine, [requests[row] for row in rows], budgets, layout)
        start = 0
        for group in list(engine.group((requests[row] for row in rows), layout)):
            group_rows = rows[start : start + len(group)]
            start += len(group)
            done = _score_alone(engine, group, on_device)
            if done is not None:
                write_sums(sums, layout, group_rows, done)
            elif len(group) == 1 and all(_pairs(pack) == 1 for pack in engine.plan(group, layout)):
                raise pair_too_large(len(group[0].prefix) + layout.length(group[0].members[-1]), engine.model.device)
            else:
                failed.append((group_rows, Budgets.of(engine)))


def _score_alone(engine: "PackedEngine", requests: Sequence[Request], on_device: DeviceLayout) -> list[PackSums] | None:
    """The sums of a group's packs, one after the other in this thread; None if memory runs out."""
    behind = engine.prefill(requests)
    if behind is None:
        return None
    done: list[PackSums] = []
    for pack in engine.plan(requests, on_device.layout):
        sums = engine.pack_sums(pack, requests, on_device, behind)
        if sums is None:
            return None
        done.append(sums)
    return done


def _halve_budgets(engine: "PackedEngine", requests: Sequence[Request], budgets: Budgets, layout: Layout) -> None:
    """Lower the engine's budgets to half of what the group took, unless another group has lowered them already."""
    if engine.model.device.type == "cuda":
        torch.cuda.empty_cache()
    packs = plan_packs(layout, [request.members for request in requests], token_budget=budgets.tokens)
    tokens = max(sum(layout.tokens(range(segment.first, segment.stop)) for segment in pack) for pack in packs)
    demonstrations = [len(request.demonstration) for request in requests if request.demonstration]
    before = Budgets.of(engine)
    engine.token_budget = min(before.tokens, _half(min(budgets.tokens, tokens)))
    if len(demonstrations) > 1:  # a single one cannot be split
        engine.prefix_budget = min(before.prefix, _half(min(budgets.prefix, sum(demonstrations))))
    if Budgets.of(engine) != before:
        logger.warning(
            "out of memory with %d tokens of demonstrations and %d tokens in a forward pass: going on with at most %d "
            "and %d",
            sum(demonstrations),
            tokens,
            engine.prefix_budget,
            engine.token_budget,
        )


def _half(tokens: int) -> int:
    return max(1, tokens // 2)


def _pairs(pack: Pack) -> int:
    return sum(segment.stop - segment.first for segment in pack)
