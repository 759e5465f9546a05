"""Packs on the model's device: their tensors, the forward passes over them, and the sums that these give."""

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
    """Input of one forward pass, and where its results are read off; `owners` count the pack's own members from 0."""

    ids: Tensor
    positions: Tensor
    scored: Tensor
    targets: Tensor
    owners: Tensor
    members: int
    own: Pieces
    shared: Pieces | None  # None behind an empty prefix


PackSums = tuple[Pack, NDArray[np.float64]]  # sums of a pack's members, in their order


def to_device(layout: Layout, device: torch.device) -> DeviceLayout:
    """The layout's lists on the device, moved once; the tensors of packs are made there from slices of them."""
    starts = layout.response_starts
    owners = [member for member in range(len(layout.columns)) for _ in range(starts[member], starts[member + 1])]
    lists = (layout.ids, layout.offsets, layout.scored, layout.targets, owners)
    return DeviceLayout(layout, *(torch.tensor(items, dtype=torch.long, device=device) for items in lists))


def assemble(on_device: DeviceLayout, pack: Pack, prefix_lengths: Sequence[int]) -> PackTensors:
    """The tensors of a pack whose prefixes (of one group) have these lengths in tokens.

    A prefix without tokens has nothing wanted behind it, or is the only one of its group.
    """
    layout, device = on_device.layout, on_device.ids.device
    members = [range(segment.first, segment.stop) for segment in pack]
    tokens = [range(layout.starts[segment.first], layout.starts[segment.stop]) for segment in pack]
    scored = [range(layout.response_starts[segment.first], layout.response_starts[segment.stop]) for segment in pack]

    # Segments may be many: all of them are taken at once, by few operations.
    def per_segment(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=device)

    def end_to_end(ranges: Sequence[range]) -> tuple[Tensor, Tensor]:
        total = sum(map(len, ranges))
        segments = torch.arange(len(ranges), device=device)
        segments = segments.repeat_interleave(per_segment([len(part) for part in ranges]), output_size=total)
        return torch.arange(total, device=device) + per_segment(_shifts(ranges))[segments], segments

    token, segment_of_token = end_to_end(tokens)
    entry, segment_of_entry = end_to_end(scored)
    own = tuple(layout.length(member) for segment in members for member in segment)
    behind: dict[int, int] = {}  # all segments behind a prefix are one piece of queries, which sees all of its keys
    for segment, segment_tokens in zip(pack, tokens, strict=True):
        behind[segment.prefix] = behind.get(segment.prefix, 0) + len(segment_tokens)
    keys = tuple(prefix_lengths[prefix] for prefix in behind)
    key_start = sum(prefix_lengths[: pack[0].prefix])
    prefix_length = per_segment([prefix_lengths[segment.prefix] for segment in pack])
    return PackTensors(
        ids=on_device.ids[token],
        positions=on_device.offsets[token] + prefix_length[segment_of_token],
        scored=on_device.scored[entry] - per_segment(_shifts(tokens))[segment_of_entry],
        targets=on_device.targets[entry],
        owners=on_device.owners[entry] - per_segment(_shifts(members))[segment_of_entry],
        members=len(own),
        own=Pieces(own, own, causal=True),
        shared=Pieces(tuple(behind.values()), keys, causal=False, key_start=key_start) if any(keys) else None,
    )


def _shifts(ranges: Sequence[range]) -> list[int]:
    """By how much each range moves when all are laid end to end from 0: its start minus its new start."""
    new_starts = accumulate(map(len, ranges), initial=0)
    return [part.start - new_start for part, new_start in zip(ranges, new_starts, strict=False)]


def prefix_positions(lengths: Sequence[int], device: torch.device, *, behind_themselves: bool = False) -> Tensor:
    """Position of every token of prefixes laid end to end, each from 0, or from its own length on."""
    starts = [0, *accumulate(lengths)][:-1]
    if behind_themselves:
        starts = [start - length for start, length in zip(starts, lengths, strict=True)]
    tokens = torch.arange(sum(lengths), device=device)
    repeats = torch.tensor(lengths, device=device)
    return tokens - torch.tensor(starts, device=device).repeat_interleave(repeats, output_size=len(tokens))


@torch.inference_mode()
def prefill_pass(
    model: Any, kernel: Kernel, prefixes: Sequence[Sequence[int]], behind: KeysValues | None = None
) -> KeysValues:
    """Keys and values of each prefix's tokens; with `behind`, of the same tokens once more behind those."""
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
    log_probs = response_log_probs(model.get_output_embeddings(), hidden[pack.scored], pack.targets)
    sums = torch.zeros(pack.members, dtype=torch.float64, device=model.device)
    sums.index_add_(0, pack.owners, log_probs.double())
    result: NDArray[np.float64] = sums.cpu().numpy()
    return result


def _hidden(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """Last hidden states `(tokens, width)` of one pass over `(tokens,)` ids at these positions."""
    hidden: Tensor = model.base_model(
        input_ids=ids[None], position_ids=positions[None], use_cache=False
    ).last_hidden_state[0]
    return hidden


def write_sums(sums: NDArray[np.float64], layout: Layout, rows: Sequence[int], packs: Sequence[PackSums]) -> None:
    """Write the sums of a group's packs to their rows and columns of `sums` (prefixes, continuations).

    `rows`: for each prefix of the group, its row in `sums`.
    """
    columns = np.array(layout.columns, dtype=np.intp)
    for pack, values in packs:
        start = 0
        for segment in pack:
            stop = start + segment.stop - segment.first
            sums[rows[segment.prefix], columns[segment.first : segment.stop]] = values[start:stop]
            start = stop
