"""A pack as tensors: slices of the layout, which lies on the model's device once and for all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from nuggets.scoring.attention_kernels import Pieces
from nuggets.scoring.packing import Layout, Pack


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """A layout and its lists as tensors; `owners`: the member to which each entry of `scored` belongs."""

    layout: Layout
    ids: Tensor
    offsets: Tensor
    scored: Tensor
    targets: Tensor
    owners: Tensor


@dataclass(frozen=True, slots=True)
class PackTensors:
    """What one forward pass is given, and what is read off where; `owners` count the pack's own members from 0."""

    ids: Tensor
    positions: Tensor
    scored: Tensor
    targets: Tensor
    owners: Tensor
    members: int
    own: Pieces
    shared: Pieces | None  # None behind an empty prefix


def on_device(layout: Layout, device: torch.device) -> DeviceLayout:
    """The layout's lists, moved once; what follows is made there from slices of them."""
    starts = layout.response_starts
    owners = [member for member in range(len(layout.columns)) for _ in range(starts[member], starts[member + 1])]
    lists = (layout.ids, layout.offsets, layout.scored, layout.targets, owners)
    return DeviceLayout(layout, *(torch.tensor(items, dtype=torch.long, device=device) for items in lists))


def assemble(laid_out: DeviceLayout, pack: Pack, prefix_lengths: Sequence[int]) -> PackTensors:
    """The tensors of a pack whose prefixes (of one group) have these lengths in tokens."""
    layout = laid_out.layout
    ids, positions, scored, targets, owners = [], [], [], [], []
    own: list[int] = []
    behind: list[int] = []
    tokens = members = 0
    for run in pack:
        start, stop = layout.starts[run.first], layout.starts[run.stop]
        entries = slice(layout.response_starts[run.first], layout.response_starts[run.stop])
        ids.append(laid_out.ids[start:stop])
        positions.append(laid_out.offsets[start:stop] + prefix_lengths[run.prefix])
        scored.append(laid_out.scored[entries] + (tokens - start))
        targets.append(laid_out.targets[entries])
        owners.append(laid_out.owners[entries] + (members - run.first))
        own.extend(layout.length(member) for member in range(run.first, run.stop))
        behind.append(stop - start)
        tokens += stop - start
        members += run.stop - run.first
    keys = tuple(prefix_lengths[run.prefix] for run in pack)
    key_start = sum(prefix_lengths[: pack[0].prefix])
    return PackTensors(
        ids=torch.cat(ids),
        positions=torch.cat(positions),
        scored=torch.cat(scored),
        targets=torch.cat(targets),
        owners=torch.cat(owners),
        members=members,
        own=Pieces(tuple(own), tuple(own), causal=True),
        shared=Pieces(tuple(behind), keys, causal=False, key_start=key_start) if any(keys) else None,
    )


def prefix_positions(lengths: Sequence[int], device: torch.device, *, behind_themselves: bool = False) -> Tensor:
    """Position of every token of prefixes laid end to end, each from 0, or from its own length on."""
    starts = [0, *accumulate(lengths)][:-1]
    if behind_themselves:
        starts = [start - length for start, length in zip(starts, lengths, strict=True)]
    tokens = torch.arange(sum(lengths), device=device)
    repeats = torch.tensor(lengths, device=device)
    return tokens - torch.tensor(starts, device=device).repeat_interleave(repeats, output_size=len(tokens))
