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
from nuggets.scoring.packing import Pack, group_prefixes, halves, lay_out, plan_packs, share_opening
from nuggets.scoring.plain import PlainEngine
from nuggets.scoring.response_logits import response_log_probs

logger = logging.getLogger(__name__)

Prefixes = Sequence[Sequence[int]]
Row = NDArray[np.float64]
PackSums = list[tuple[Pack, Row]]  # more than one pack where memory ran out and a pack was cut

# A demonstration's keys and values, and the pass that computes them once more behind given ones, to others.
Update = Callable[[KeysValues, Callable[[KeysValues], KeysValues]], KeysValues]


@dataclass(frozen=True, slots=True)
class _Group:
    """Prefixes whose forward passes have been handed to the lanes, and where their results will be."""

    prefixes: int
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
        self, prefixes: Iterable[Sequence[int]], continuations: Sequence[Continuation]
    ) -> Iterator[NDArray[np.float64]]:
        """See LanguageModel."""
        if self.update is None:  # refined keys and values are those of a demonstration alone
            opening, continuations = share_opening(continuations)
            prefixes = ((*prefix, *opening) for prefix in prefixes)
        layout = lay_out(continuations)
        if not layout.columns:
            yield from (np.zeros(len(continuations)) for _ in prefixes)
            return
        laid_out = on_device(layout, self.model.device)
        ahead: deque[_Group] = deque()
        with open_lanes(self.model.device) as lanes:
            for group in self._groups(prefixes, continuations, laid_out, lanes):
                ahead.append(group)
                if len(ahead) > 1:  # the lanes have work for after this group
                    yield from _rows(ahead.popleft(), laid_out, len(continuations))
            for group in ahead:
                yield from _rows(group, laid_out, len(continuations))

    def _groups(
        self,
        prefixes: Iterable[Sequence[int]],
        continuations: Sequence[Continuation],
        laid_out: DeviceLayout,
        lanes: ThreadPoolExecutor,
    ) -> Iterator[_Group]:
        """Hands the passes to the lanes: a group's demonstrations before the packs of the group in front of it.

        So a demonstration's keys and values are there when its packs' turn comes, and no lane waits for them.
        """
        layout = laid_out.layout
        longest = layout.length(len(layout.columns) - 1)

        def beyond(prefix: Sequence[int]) -> bool:
            # Refined, a demonstration stands behind itself.
            behind = max(longest, len(prefix)) if self.update else longest
            return self.context is not None and len(prefix) + behind > self.context

        groups = group_prefixes(
            prefixes,
            layout_tokens=layout.tokens,
            token_budget=self.token_budget,
            alone=lambda prefix: not prefix or beyond(prefix),  # no keys to attend to, or no packing
        )
        started: tuple[Prefixes, Future[KeysValues]] | None = None
        told = False
        for group in groups:
            packable = not beyond(group[0])
            following = (group, lanes.submit(self.keys_values, group)) if packable else None
            if started is not None:
                yield self._submit_packs(*started, laid_out, lanes)
            if not packable:
                if self.update and group[0]:
                    raise InputError(
                        f"kv_iter above 1 can't refine a demonstration of {len(group[0])} tokens: with what stands "
                        f"behind it, it is longer than the {self.context} tokens that this model's attention reaches "
                        "back; lower demonstration_tokens or use kv_iter=1"
                    )
                if not told:
                    told = True
                    logger.warning(
                        "%d tokens in front of anchors of up to %d are more than the %d that can be packed for this "
                        "model's attention: such candidates are scored one pair per forward pass, which is right and "
                        "slower",
                        len(group[0]),
                        longest,
                        self.context,
                    )
                yield _Group(1, [], partial(self.plain.row, group[0], continuations))
            started = following
        if started is not None:
            yield self._submit_packs(*started, laid_out, lanes)

    def _submit_packs(
        self, prefixes: Prefixes, keys_values: "Future[KeysValues]", laid_out: DeviceLayout, lanes: ThreadPoolExecutor
    ) -> _Group:
        packs = plan_packs(laid_out.layout, prefixes=len(prefixes), token_budget=self.token_budget)
        lengths = [len(prefix) for prefix in prefixes]
        return _Group(
            len(prefixes), [lanes.submit(self._pack_sums, laid_out, pack, lengths, keys_values) for pack in packs]
        )

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
        """Keys and values of prefixes laid end to end; of one after the other if memory runs out."""
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
        if not prefixes[0]:
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
    sums = np.zeros((group.prefixes, continuations))
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
