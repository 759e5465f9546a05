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
    """The tensors of a pack whose prefixes (of one group) have these lengths in tokens.

    A prefix without tokens is one that nothing is wanted behind, or the only one.
    """
    layout = laid_out.layout
    members = [range(run.first, run.stop) for run in pack]
    tokens = [range(layout.starts[run.first], layout.starts[run.stop]) for run in pack]
    scored = [range(layout.response_starts[run.first], layout.response_starts[run.stop]) for run in pack]

    # Runs may be many: so all of them are taken at once, by few operations.
    def per_run(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=laid_out.ids.device)

    def end_to_end(ranges: Sequence[range]) -> tuple[Tensor, Tensor]:
        total = sum(map(len, ranges))
        runs = torch.arange(len(ranges), device=laid_out.ids.device)
        runs = runs.repeat_interleave(per_run([len(each) for each in ranges]), output_size=total)
        return torch.arange(total, device=laid_out.ids.device) + per_run(_moves(ranges))[runs], runs

    token, run_of_token = end_to_end(tokens)
    entry, run_of_entry = end_to_end(scored)
    own = tuple(layout.length(member) for run in members for member in run)
    behind: dict[int, int] = {}  # all runs behind a prefix are one piece of queries, which sees all its keys
    for run, taken in zip(pack, tokens, strict=True):
        behind[run.prefix] = behind.get(run.prefix, 0) + len(taken)
    keys = tuple(prefix_lengths[prefix] for prefix in behind)
    key_start = sum(prefix_lengths[: pack[0].prefix])
    return PackTensors(
        ids=laid_out.ids[token],
        positions=laid_out.offsets[token] + per_run([prefix_lengths[run.prefix] for run in pack])[run_of_token],
        scored=laid_out.scored[entry] - per_run(_moves(tokens))[run_of_entry],
        targets=laid_out.targets[entry],
        owners=laid_out.owners[entry] - per_run(_moves(members))[run_of_entry],
        members=len(own),
        own=Pieces(own, own, causal=True),
        shared=Pieces(tuple(behind.values()), keys, causal=False, key_start=key_start) if any(keys) else None,
    )


def _moves(ranges: Sequence[range]) -> list[int]:
    """How far each range stands from where it starts when they are laid end to end."""
    return [each.start - place for each, place in zip(ranges, accumulate(map(len, ranges), initial=0), strict=False)]


def prefix_positions(lengths: Sequence[int], device: torch.device, *, behind_themselves: bool = False) -> Tensor:
    """Position of every token of prefixes laid end to end, each from 0, or from its own length on."""
    starts = [0, *accumulate(lengths)][:-1]
    if behind_themselves:
        starts = [start - length for start, length in zip(starts, lengths, strict=True)]
    tokens = torch.arange(sum(lengths), device=device)
    repeats = torch.tensor(lengths, device=device)
    return tokens - torch.tensor(starts, device=device).repeat_interleave(repeats, output_size=len(tokens))
