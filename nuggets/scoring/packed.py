"""The packed engine: each demonstration once, continuations end to end behind it, logits of response tokens only."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuggets.errors import InputError
from nuggets.scoring.attention import ForwardPass, KeysValues, forward_pass
from nuggets.scoring.attention_kernels import Kernel, Pieces
from nuggets.scoring.door import Continuation
from nuggets.scoring.lanes import open_lanes
from nuggets.scoring.memory import is_out_of_memory, too_large
from nuggets.scoring.pack_tensors import DeviceLayout, assemble, on_device, prefix_positions
from nuggets.scoring.packing import Layout, Pack, halves, lay_out, plan_packs, share_opening
from nuggets.scoring.plain import PlainEngine
from nuggets.scoring.requests import Request, each_with_wanted, group_requests, requests_for
from nuggets.scoring.response_logits import response_log_probs

logger = logging.getLogger(__name__)

Prefixes = Sequence[Sequence[int]]
Row = NDArray[np.float64]
PackSums = list[tuple[Pack, Row]]  # more than one pack where memory ran out and a pack was cut

# A demonstration's keys and values, and the pass that computes them once more behind given ones, to others.
Update = Callable[[KeysValues, Callable[[KeysValues], KeysValues]], KeysValues]


@dataclass(frozen=True, slots=True)
class _Group:
    """Requests whose forward passes have been handed to the lanes, and where their results will be."""

    requests: Sequence[Request]
    packs: list["Future[PackSums]"]
    plain_row: Callable[[], Row] | None = None  # left to the caller's thread, which has all cores


class PackedEngine:
    """See LanguageModel. `model` has PACKED_ATTENTION set; `plain` is the same model with its own attention.

    `context`: sequences beyond so many tokens take the plain path. `token_budget`: tokens per forward pass; memory
    that runs out halves it. `update`: what is done to demonstrations' keys and values before anything attends to them.
    """

    def __init__(
        self,
        model: Any,
        plain: PlainEngine,
        *,
        kernel: Kernel,
        token_budget: int,
        context: int | None = None,
        update: Update | None = None,
    ) -> None:
        self.model = model
        self.plain = plain
        self.kernel = kernel
        self.token_budget = token_budget
        self.context = context
        self.update = update

    def log_prob_sums(
        self,
        prefixes: Iterable[Sequence[int]],
        continuations: Sequence[Continuation],
        *,
        wanted: Iterable[Sequence[int]] | None = None,
    ) -> Iterator[NDArray[np.float64]]:
        """See LanguageModel."""
        if self.update is None:  # refined keys and values are those of a demonstration alone
            opening, continuations = share_opening(continuations)
            prefixes = ((*prefix, *opening) for prefix in prefixes)
        laid_out = on_device(lay_out(continuations), self.model.device)
        requests = requests_for(laid_out.layout, each_with_wanted(prefixes, wanted, len(continuations)))
        ahead: deque[_Group] = deque()
        with open_lanes(self.model.device) as lanes:
            for group in self._groups(requests, continuations, laid_out, lanes):
                ahead.append(group)
                if len(ahead) > 1:  # the lanes have work for after this group
                    yield from _rows(ahead.popleft(), laid_out, len(continuations))
            for group in ahead:
                yield from _rows(group, laid_out, len(continuations))

    def _groups(
        self,
        requests: Iterable[Request],
        continuations: Sequence[Continuation],
        laid_out: DeviceLayout,
        lanes: ThreadPoolExecutor,
    ) -> Iterator[_Group]:
        """Hands the passes to the lanes: a group's demonstrations before the packs of the group in front of it.

        So a demonstration's keys and values are there when its packs' turn comes, and no lane waits for them.
        """
        layout = laid_out.layout

        def alone(request: Request) -> bool:  # no keys to attend to, or no packing
            return bool(request.members) and not (request.prefix and self._is_packable(request, layout))

        started: tuple[list[Request], Future[KeysValues]] | None = None
        told = False
        for group in group_requests(requests, layout, token_budget=self.token_budget, alone=alone):
            packable = self._is_packable(group[0], layout)
            prefixes = [request.prefix for request in group if request.prefix]
            following = (group, lanes.submit(self.keys_values, prefixes)) if packable else None
            if started is not None:
                yield self._submit_packs(*started, laid_out, lanes)
            if not packable:
                (request,) = group
                tokens = len(request.prefix)
                if self.update and tokens:
                    raise InputError(
                        f"kv_iter above 1 can't refine a demonstration of {tokens} tokens: with what stands behind it, "
                        f"it is longer than the {self.context} tokens that this model's attention reaches back; lower "
                        "demonstration_tokens or use kv_iter=1"
                    )
                if not told:
                    told = True
                    logger.warning(
                        "%d tokens in front of anchors of up to %d are more than the %d that can be packed for this "
                        "model's attention: such candidates are scored one pair per forward pass, which is right and "
                        "slower",
                        tokens,
                        layout.length(request.members[-1]),
                        self.context,
                    )
                yield _Group(group, [], partial(self.plain.row, request.prefix, continuations, request.wanted))
            started = following
        if started is not None:
            yield self._submit_packs(*started, laid_out, lanes)

    def _is_packable(self, request: Request, layout: Layout) -> bool:
        """Whether the prefix and the longest continuation wanted behind it are within the context."""
        if self.context is None or not request.members:
            return True
        tokens, longest = len(request.prefix), layout.length(request.members[-1])
        # Refined, a demonstration stands behind itself.
        return tokens + (max(longest, tokens) if self.update else longest) <= self.context

    def _submit_packs(
        self, group: list[Request], keys_values: "Future[KeysValues]", laid_out: DeviceLayout, lanes: ThreadPoolExecutor
    ) -> _Group:
        packs = plan_packs(laid_out.layout, [request.members for request in group], token_budget=self.token_budget)
        lengths = [len(request.prefix) for request in group]
        return _Group(group, [lanes.submit(self._pack_sums, laid_out, pack, lengths, keys_values) for pack in packs])

    def _pack_sums(
        self, laid_out: DeviceLayout, pack: Pack, lengths: Sequence[int], keys_values: "Future[KeysValues]"
    ) -> PackSums:
        """Sums of the pack's members, in parts if they don't fit into memory together."""
        behind = keys_values.result()
        waiting, done = [pack], []
        while waiting:
            part = waiting.pop()
            try:
                done.append((part, self._pass(laid_out, part, lengths, behind)))
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                cut = halves(laid_out.layout, part)
                tokens = sum(laid_out.layout.starts[run.stop] - laid_out.layout.starts[run.first] for run in part)
                if cut is None:
                    raise too_large(tokens + lengths[part[0].prefix], self.model.device) from error
            # Outside the handler: what the failed pass had allocated lives as long as the error does.
            self._halve(tokens)
            waiting.extend(cut)
        return done

    @torch.inference_mode()
    def _pass(self, laid_out: DeviceLayout, pack: Pack, lengths: Sequence[int], behind: KeysValues) -> Row:
        device = self.model.device
        tensors = assemble(laid_out, pack, lengths)
        shared = self.kernel(tensors.shared, device) if tensors.shared else None
        with forward_pass(ForwardPass(self.kernel(tensors.own, device), shared, behind)):
            hidden = self._hidden(tensors.ids, tensors.positions)
        found = response_log_probs(self.model.get_output_embeddings(), hidden[tensors.scored], tensors.targets)
        sums = torch.zeros(tensors.members, dtype=torch.float64, device=device)
        sums.index_add_(0, tensors.owners, found.double())
        result: Row = sums.cpu().numpy()
        return result

    def keys_values(self, prefixes: Prefixes) -> KeysValues:
        """Keys and values of prefixes, none of them empty, laid end to end; of fewer at a time if memory runs out."""
        try:
            found = self._demonstration_pass(prefixes)
            if self.update is None:
                return found
            return self.update(found, lambda behind: self._demonstration_pass(prefixes, behind))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(prefixes) == 1:
                raise too_large(len(prefixes[0]), self.model.device) from error
        self._halve(sum(map(len, prefixes)))
        middle = len(prefixes) // 2
        first, second = self.keys_values(prefixes[:middle]), self.keys_values(prefixes[middle:])
        return {layer: _end_to_end(first[layer], second[layer]) for layer in first}

    @torch.inference_mode()
    def _demonstration_pass(self, prefixes: Prefixes, behind: KeysValues | None = None) -> KeysValues:
        """Keys and values of each prefix's tokens; with `behind`, of its tokens standing once more behind those."""
        if not prefixes:
            return {}
        lengths = tuple(map(len, prefixes))
        device = self.model.device
        own = self.kernel(Pieces(lengths, lengths, causal=True), device)
        shared = self.kernel(Pieces(lengths, lengths, causal=False), device) if behind else None
        record: KeysValues = {}
        with forward_pass(ForwardPass(own, shared, behind, record)):
            self._hidden(
                torch.tensor([token for prefix in prefixes for token in prefix], device=device),
                prefix_positions(lengths, device, behind_themselves=behind is not None),
            )
        return record

    def _hidden(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states `(tokens, width)` of one pass over `(tokens,)` ids at these positions."""
        hidden: Tensor = self.model.base_model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False
        ).last_hidden_state[0]
        return hidden

    def _halve(self, tokens: int) -> None:
        self.token_budget = min(self.token_budget, max(1, tokens // 2))
        logger.warning(
            "out of memory with %d tokens in a forward pass: going on with at most %d", tokens, self.token_budget
        )
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()


def _rows(group: _Group, laid_out: DeviceLayout, continuations: int) -> Iterator[Row]:
    """The group's rows, waiting for them."""
    if group.plain_row is not None:
        yield group.plain_row()
        return
    sums = np.full((len(group.requests), continuations), np.nan)
    for row, request in zip(sums, group.requests, strict=True):
        row[list(request.wanted)] = 0.0  # stays where there is nothing to score
    columns = np.array(laid_out.layout.columns, dtype=np.intp)
    for future in group.packs:
        for pack, values in future.result():
            start = 0
            for run in pack:
                stop = start + run.stop - run.first
                sums[run.prefix, columns[run.first : run.stop]] = values[start:stop]
                start = stop
    yield from sums


def _end_to_end(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([first[0], second[0]], dim=2), torch.cat([first[1], second[1]], dim=2)
