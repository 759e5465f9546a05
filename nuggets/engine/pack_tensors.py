"""A pack as tensors: slices of the layout, which lies on the model's device once and for all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuggets.engine.attention import ForwardPass, KeysValues, forward_pass
from nuggets.engine.attention_kernels import Kernel, Pieces
from nuggets.engine.packing import Layout, Pack
from nuggets.engine.response_log_probs import response_log_probs


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


def to_device(layout: Layout, device: torch.device) -> DeviceLayout:
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


@torch.inference_mode()
def demonstration_pass(
    model: Any, kernel: Kernel, prefixes: Sequence[Sequence[int]], behind: KeysValues | None = None
) -> KeysValues:
    """Keys and values of each prefix's tokens; with `behind`, of its tokens standing once more behind those."""
    if not prefixes:
        return {}
    lengths = tuple(map(len, prefixes))
    own = kernel(Pieces(lengths, lengths, causal=True), model.device)
    shared = kernel(Pieces(lengths, lengths, causal=False), model.device) if behind else None
    record: KeysValues = {}
    with forward_pass(ForwardPass(own, shared, behind, record)):
        _hidden(
            model,
            torch.tensor([token for prefix in prefixes for token in prefix], device=model.device),
            prefix_positions(lengths, model.device, behind_themselves=behind is not None),
        )
    return record


@torch.inference_mode()
def pack_pass(model: Any, kernel: Kernel, pack: PackTensors, behind: KeysValues) -> NDArray[np.float64]:
    """Summed log-probabilities (nats) of the responses of a pack's members behind these keys and values."""
    shared = kernel(pack.shared, model.device) if pack.shared else None
    with forward_pass(ForwardPass(kernel(pack.own, model.device), shared, behind)):
        hidden = _hidden(model, pack.ids, pack.positions)
    found = response_log_probs(model.get_output_embeddings(), hidden[pack.scored], pack.targets)
    sums = torch.zeros(pack.members, dtype=torch.float64, device=model.device)
    sums.index_add_(0, pack.owners, found.double())
    result: NDArray[np.float64] = sums.cpu().numpy()
    return result


def _hidden(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """Last hidden states `(tokens, width)` of one pass over `(tokens,)` ids at these positions."""
    hidden: Tensor = model.base_model(
        input_ids=ids[None], position_ids=positions[None], use_cache=False
    ).last_hidden_state[0]
    return hidden


# Sums of a pack's members, in their order; None for what memory had no room for. Several where a pack was cut.
PackSums = list[tuple[Pack, NDArray[np.float64] | None]]


def write_sums(sums: NDArray[np.float64], layout: Layout, rows: Sequence[int], found: PackSums) -> dict[int, list[int]]:
    """Writes sums to their rows and columns and returns, by row, the members that are left; no row without any.

    `rows`: for each prefix of the packs, its row in `sums` (prefixes, continuations).
    """
    columns = np.array(layout.columns, dtype=np.intp)
    left: dict[int, list[int]] = {}
    for pack, values in found:
        start = 0
        for run in pack:
            row = rows[run.prefix]
            if values is None:
                left.setdefault(row, []).extend(range(run.first, run.stop))
                continue
            stop = start + run.stop - run.first
            sums[row, columns[run.first : run.stop]] = values[start:stop]
            start = stop
    return {row: sorted(members) for row, members in left.items()}
