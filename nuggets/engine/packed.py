"""The packed engine: each demonstration once, continuations end to end behind it, logits of response tokens only."""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nuggets.engine.attention import KeysValues
from nuggets.engine.attention_kernels import Kernel
from nuggets.engine.interface import Continuation
from nuggets.engine.kv_refinement import check_refinable
from nuggets.engine.memory import is_out_of_memory, pair_too_large
from nuggets.engine.pack_tensors import (
    DeviceLayout,
    PackSums,
    assemble,
    demonstration_pass,
    pack_pass,
    to_device,
    write_sums,
)
from nuggets.engine.packing import (
    Layout,
    Pack,
    Request,
    each_with_wanted,
    group_requests,
    halves,
    lay_out,
    plan_packs,
    requests_for,
    share_opening,
    tokens_of,
)
from nuggets.engine.pass_threads import open_pass_threads
from nuggets.engine.plain import PlainEngine
from nuggets.errors import OutOfMemory

logger = logging.getLogger(__name__)
_CROWDED = 4  # times a pass's tokens: of more keys and values, it is these that have to become fewer
Prefixes = Sequence[Sequence[int]]
Row = NDArray[np.float64]
# A demonstration's keys and values, and the pass that computes them once more behind given ones, to others.
Update = Callable[[KeysValues, Callable[[KeysValues], KeysValues]], KeysValues]


@dataclass(slots=True)
class _Group:
    """Requests on their way through the lanes: first their demonstrations, then the packs behind these."""

    requests: Sequence[Request]
    keys_values: "Future[KeysValues | None] | None"  # None once its packs have been handed over: they alone keep it
    packs: list["Future[PackSums]"] = field(default_factory=list)


class PackedEngine:
    """See LanguageModel. `model` has PACKED_ATTENTION set; `plain` is the same model with its own attention.

    `context`: sequences beyond so many tokens take the plain path. `token_budget`: tokens per forward pass;
    `prefix_budget`: tokens of the demonstrations that a group has, whose keys and values stay until its last pack is
    done; memory that runs out halves whichever it ran out with. `update`: what is done to demonstrations' keys and
    values before anything attends to them.
    """

    def __init__(
        self,
        model: Any,
        plain: PlainEngine,
        *,
        kernel: Kernel,
        token_budget: int,
        prefix_budget: int = sys.maxsize,
        context: int | None = None,
        update: Update | None = None,
    ) -> None:
        self.model = model
        self.plain = plain
        self.kernel = kernel
        self.token_budget = token_budget
        self.prefix_budget = prefix_budget
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
        laid_out = to_device(lay_out(continuations), self.model.device)
        requests = requests_for(
            laid_out.layout, each_with_wanted(prefixes, wanted, len(continuations)), context=self.context
        )
        flight: deque[_Group] = deque()
        with open_pass_threads(self.model.device) as lanes:
            for group in self._groups(requests, laid_out.layout, lanes):
                flight.append(group)
                # A group's demonstrations before the packs of the group in front of it: so their keys and values are
                # there when its own packs' turn comes, and no lane waits for them.
                if len(flight) > 1:
                    self._submit_packs(flight[-2], laid_out, lanes)
                if len(flight) > 2:  # the lanes have work for after this group
                    yield from self._rows(flight, continuations, laid_out, lanes)
            while flight:
                self._submit_packs(flight[-1], laid_out, lanes)
                yield from self._rows(flight, continuations, laid_out, lanes)

    def _groups(self, requests: Iterable[Request], layout: Layout, lanes: ThreadPoolExecutor) -> Iterator[_Group]:
        """The groups, their demonstrations handed to the lanes."""
        told = False
        for group in group_requests(
            requests,
            layout,
            token_budget=self.token_budget,
            prefix_budget=self._most_prefix_tokens,
            alone=lambda request: bool(request.members) and not request.prefix,  # no keys to attend to
        ):
            for request in group:
                if self.update and request.prefix:
                    fits = not request.plain
                    check_refinable(len(request.prefix), self.model, context=self.context, fits=fits)
                if request.plain and not told:
                    told = True
                    logger.warning(
                        "%d tokens in front of anchors of up to %d are more than the %d that can be packed for this "
                        "model's attention: such pairs are scored one pair per forward pass, which is right and slower",
                        len(request.prefix),
                        layout.length(request.plain[-1]),
                        self.context,
                    )
            yield _Group(group, lanes.submit(self._keys_values_if_room, _demonstrations(group)))

    def _most_prefix_tokens(self) -> int:
        """What a group's demonstrations may come to: one pass computes all of them, and their keys and values stay."""
        return min(self.token_budget, self.prefix_budget)

    def _submit_packs(self, group: _Group, laid_out: DeviceLayout, lanes: ThreadPoolExecutor) -> None:
        """Hands a group's packs to the lanes, if that has not been done."""
        if group.keys_values is None:
            return
        job = partial(
            self._pack_sums_behind, group.keys_values, laid_out, [len(each.demonstration) for each in group.requests]
        )
        group.packs.extend(lanes.submit(job, pack) for pack in self._plan(group.requests, laid_out))
        group.keys_values = None

    def _plan(self, requests: Sequence[Request], laid_out: DeviceLayout) -> list[Pack]:
        return plan_packs(laid_out.layout, [each.members for each in requests], token_budget=self.token_budget)

    def _rows(
        self,
        flight: deque[_Group],
        continuations: Sequence[Continuation],
        laid_out: DeviceLayout,
        lanes: ThreadPoolExecutor,
    ) -> Iterator[Row]:
        """The rows of the first group in flight, waiting for them."""
        group = flight.popleft()
        layout = laid_out.layout
        sums = np.full((len(group.requests), len(continuations)), np.nan)
        for row, request in zip(sums, group.requests, strict=True):
            row[list(request.wanted)] = 0.0  # stays where there is nothing to score
        found = [each for pack in group.packs for each in pack.result()]
        left = write_sums(sums, layout, range(len(sums)), found)
        if left:
            self._land(flight, laid_out, lanes)
            self._score_alone(sums, {row: replace(group.requests[row], members=left[row]) for row in left}, laid_out)
        for row, request in zip(sums, group.requests, strict=True):
            if request.plain:  # by the caller's thread, which has all cores
                columns = [layout.columns[member] for member in request.plain]
                plain_row = partial(self.plain.row, request.prefix, continuations, columns)
                row[columns] = _alone_if_needed(plain_row, partial(self._land, flight, laid_out, lanes))[columns]
            yield row

    def _land(self, flight: Iterable[_Group], laid_out: DeviceLayout, lanes: ThreadPoolExecutor) -> None:
        """Waits until nothing is computed and no keys and values are in memory: a group's are kept by its packs."""
        for group in flight:
            self._submit_packs(group, laid_out, lanes)
        for group in flight:
            wait(group.packs)

    def _score_alone(self, sums: NDArray[np.float64], requests: dict[int, Request], laid_out: DeviceLayout) -> None:
        """Writes the sums of requests (by their row), with nothing else in memory; of fewer at a time until they fit.

        Raises OutOfMemory if a single pair does not.
        """
        waiting = [requests]
        while waiting:
            part = waiting.pop()
            rows = sorted(part)
            prefixes = _demonstrations([part[row] for row in rows])
            if len(rows) > 1 and sum(map(len, prefixes)) > self._most_prefix_tokens():
                middle = len(rows) // 2
                # The second half waits while the first one is computed, scored and dropped: together they don't fit.
                waiting.extend({row: part[row] for row in half} for half in (rows[middle:], rows[:middle]))
                continue
            left = write_sums(sums, laid_out.layout, rows, self._group_sums([part[row] for row in rows], laid_out))
            if left and len(rows) == 1:
                (request,) = part.values()
                raise pair_too_large(len(request.prefix) + laid_out.layout.length(left[rows[0]][-1]), self.model.device)
            if left:
                waiting.append({row: replace(part[row], members=left[row]) for row in left})

    def _group_sums(self, requests: Sequence[Request], laid_out: DeviceLayout) -> PackSums:
        behind = self._keys_values_if_room(_demonstrations(requests))
        lengths = [len(each.demonstration) for each in requests]
        packs = self._plan(requests, laid_out)
        return [each for pack in packs for each in self._pack_sums(behind, laid_out, lengths, pack)]

    def _pack_sums_behind(
        self,
        keys_values: "Future[KeysValues | None]",
        laid_out: DeviceLayout,
        lengths: Sequence[int],
        pack: Pack,
    ) -> PackSums:
        return self._pack_sums(keys_values.result(), laid_out, lengths, pack)

    def _pack_sums(
        self, behind: KeysValues | None, laid_out: DeviceLayout, lengths: Sequence[int], pack: Pack
    ) -> PackSums:
        """Sums of the pack's members, in parts if they don't fit into memory together."""
        waiting = [pack]
        done: PackSums = []
        while waiting:
            part = waiting.pop()
            if behind is None:
                done.append((part, None))
                continue
            try:
                done.append((part, pack_pass(self.model, self.kernel, assemble(laid_out, part, lengths), behind)))
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: what the failed pass had allocated lives as long as the error does.
            tokens, cut = tokens_of(laid_out.layout, part), halves(laid_out.layout, part)
            crowded = len(lengths) > 1 and sum(lengths) > _CROWDED * tokens
            if cut is None or crowded:  # whether it fits with fewer keys and values, or alone, shows later
                self._lower_prefix_budget(sum(lengths))
                done.append((part, None))
                continue
            self._lower_token_budget(tokens)
            waiting.extend(cut)
        return done

    def keys_values(self, prefixes: Prefixes) -> KeysValues:
        """Keys and values of prefixes, none of them empty, laid end to end."""
        found = demonstration_pass(self.model, self.kernel, prefixes)
        if self.update is None:
            return found
        return self.update(found, lambda behind: demonstration_pass(self.model, self.kernel, prefixes, behind))

    def _keys_values_if_room(self, prefixes: Prefixes) -> KeysValues | None:
        """The same, or None if memory ran out; groups are smaller from then on."""
        try:
            return self.keys_values(prefixes)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._lower_prefix_budget(sum(map(len, prefixes)))
        return None

    def _lower_token_budget(self, tokens: int) -> None:
        self.token_budget = min(self.token_budget, max(1, tokens // 2))
        self._say("tokens in a forward pass", tokens, self.token_budget)

    def _lower_prefix_budget(self, tokens: int) -> None:
        if tokens:  # in front of a zero-shot sum there are none, and they are not what takes the room
            self.prefix_budget = min(self.prefix_budget, max(1, tokens // 2))
            self._say("tokens of demonstrations at once", tokens, self.prefix_budget)

    def _say(self, what: str, tokens: int, budget: int) -> None:
        logger.warning("out of memory with %d %s: going on with at most %d", tokens, what, budget)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()


def _alone_if_needed(compute: Callable[[], Row], land: Callable[[], None]) -> Row:
    """What is computed; once more with nothing else in memory, should that run out."""
    try:
        return compute()
    except OutOfMemory:
        pass
    land()
    return compute()


def _demonstrations(requests: Iterable[Request]) -> list[Sequence[int]]:
    return [each.demonstration for each in requests if each.demonstration]
