"""The packed engine: each demonstration once, continuations end to end behind it, logits of response tokens only."""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.engine.attention import KeysValues
from nuggets.engine.attention_kernels import Kernel
from nuggets.engine.interface import Continuation
from nuggets.engine.kv_refinement import check_refinable
from nuggets.engine.memory import unless_out_of_memory
from nuggets.engine.pack_tensors import (
    DeviceLayout,
    PackSums,
    assemble,
    pack_pass,
    prefill_pass,
    to_device,
    write_sums,
)
from nuggets.engine.packing import (
    Layout,
    Pack,
    Request,
    group_requests,
    lay_out,
    plan_packs,
    requests_for,
    share_opening,
    with_wanted,
)
from nuggets.engine.pass_threads import open_pass_threads
from nuggets.engine.plain import PlainEngine
from nuggets.engine.recovery import Budgets, score_again
from nuggets.errors import OutOfMemory

logger = logging.getLogger(__name__)
Row = NDArray[np.float64]
# A demonstration's keys and values, and the pass that computes them once more behind given ones, to refined ones.
Update = Callable[[KeysValues, Callable[[KeysValues], KeysValues]], KeysValues]


class PackedEngine:
    """See LanguageModel. `model` has PACKED_ATTENTION set; `plain` is the same model with its own attention.

    `context`: longer sequences are scored by the plain engine. `token_budget`: tokens per forward pass;
    `prefix_budget`: tokens of a group's demonstrations, whose keys and values are kept until its last pack is done;
    both are halved when memory runs out. `update`: applied to demonstrations' keys and values before anything attends
    to them.
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

    @property
    def path(self) -> str:
        """See LanguageModel."""
        return f"packed ({self.kernel.__name__})"

    def log_prob_sums(
        self,
        prefixes: Iterable[Sequence[int]],
        continuations: Sequence[Continuation],
        *,
        wanted: Iterable[Sequence[int]] | None = None,
    ) -> Iterator[Row]:
        """See LanguageModel."""
        if self.update is None:  # refined keys and values are those of a demonstration alone
            opening, continuations = share_opening(continuations)
            prefixes = ((*prefix, *opening) for prefix in prefixes)
        layout = to_device(lay_out(continuations), self.model.device)
        requests = requests_for(layout.layout, with_wanted(prefixes, wanted, len(continuations)), context=self.context)
        with open_pass_threads(self.model.device) as threads:
            yield from _Call(self, continuations, layout, threads).rows(requests)

    def group(self, requests: Iterable[Request], layout: Layout) -> Iterator[list[Request]]:
        """Consecutive requests in groups that fit the budgets."""
        return group_requests(
            requests,
            layout,
            token_budget=self.token_budget,
            # One pass computes all demonstrations of a group, and their keys and values are kept.
            prefix_budget=lambda: min(self.token_budget, self.prefix_budget),
            alone=lambda request: bool(request.members) and not request.prefix,  # it has no keys to attend to
        )

    def plan(self, requests: Sequence[Request], layout: Layout) -> list[Pack]:
        """The packs of a group."""
        return plan_packs(layout, [request.members for request in requests], token_budget=self.token_budget)

    def keys_values(self, prefixes: Sequence[Sequence[int]]) -> KeysValues:
        """Keys and values of prefixes, none of them empty, laid end to end."""
        first = prefill_pass(self.model, self.kernel, prefixes)
        if self.update is None:
            return first
        return self.update(first, lambda behind: prefill_pass(self.model, self.kernel, prefixes, behind))

    def prefill(self, requests: Sequence[Request]) -> KeysValues | None:
        """Keys and values of a group's demonstrations; None if memory runs out."""
        prefixes = [request.demonstration for request in requests if request.demonstration]
        return unless_out_of_memory(lambda: self.keys_values(prefixes))

    def pack_sums(
        self, pack: Pack, requests: Sequence[Request], layout: DeviceLayout, behind: KeysValues
    ) -> PackSums | None:
        """Sums of the members of a group's pack; None if memory runs out."""
        lengths = [len(request.demonstration) for request in requests]
        sums = unless_out_of_memory(lambda: pack_pass(self.model, self.kernel, assemble(layout, pack, lengths), behind))
        return None if sums is None else (pack, sums)


@dataclass(slots=True)
class _Group:
    """Requests on their way through the threads: first their prefill, then their packs."""

    requests: Sequence[Request]
    budgets: Budgets  # with which it was made
    keys_values: "Future[KeysValues | None] | None"  # None once its packs are submitted: only they keep them then
    packs: "list[Future[PackSums | None]]" = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    """One call of log_prob_sums: its continuations, its threads, and the groups whose rows have not been yielded."""

    engine: PackedEngine
    continuations: Sequence[Continuation]
    layout: DeviceLayout
    threads: ThreadPoolExecutor
    in_flight: deque[_Group] = field(default_factory=deque)

    def rows(self, requests: Iterable[Request]) -> Iterator[Row]:
        """The rows of all requests, in their order."""
        for group in self._groups(requests):
            # 1. Submit the prefill of a group: one pass over its demonstrations. No variable here may hold the future:
            #    the keys and values have to go when the group's packs are done.
            budgets = Budgets.of(self.engine)
            self.in_flight.append(_Group(group, budgets, self.threads.submit(self.engine.prefill, group)))
            # 2. Submit the packs of the group before it. Its keys and values are computed before the pack passes that
            #    are queued before these packs, so no thread waits for them.
            if len(self.in_flight) > 1:
                self._submit_packs(self.in_flight[-2])
            # 3. Yield the sums of the group before that one: the threads have work for the time after it.
            if len(self.in_flight) > 2:
                yield from self._finish(self.in_flight.popleft())
        # 4. No more groups: the same for those that are left.
        while self.in_flight:
            self._submit_packs(self.in_flight[-1])
            yield from self._finish(self.in_flight.popleft())

    def _groups(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        layout, context = self.layout.layout, self.engine.context
        warned = False
        for group in self.engine.group(requests, layout):
            for request in group:
                if self.engine.update and request.prefix:
                    fits = not request.plain
                    check_refinable(len(request.prefix), self.engine.model, context=context, fits=fits)
                if request.plain and not warned:
                    warned = True
                    logger.warning(
                        "%d tokens in front of anchors of up to %d are more than the %d that can be packed for this "
                        "model's attention: such pairs are scored one pair per forward pass, which is correct and slow",
                        len(request.prefix),
                        layout.length(request.plain[-1]),
                        context,
                    )
            yield group

    def _submit_packs(self, group: _Group) -> None:
        """Submit a group's packs, unless that has been done."""
        if group.keys_values is None:
            return
        job = partial(self._pack_sums, group.keys_values, group.requests)
        packs = self.engine.plan(group.requests, self.layout.layout)
        group.packs.extend(self.threads.submit(job, pack) for pack in packs)
        group.keys_values = None

    def _pack_sums(
        self, keys_values: "Future[KeysValues | None]", requests: Sequence[Request], pack: Pack
    ) -> PackSums | None:
        behind = keys_values.result()
        return None if behind is None else self.engine.pack_sums(pack, requests, self.layout, behind)

    def _finish(self, group: _Group) -> Iterator[Row]:
        """The rows of a group, once its packs are done."""
        sums = np.full((len(group.requests), len(self.continuations)), np.nan)
        for row, request in zip(sums, group.requests, strict=True):
            row[list(request.wanted)] = 0.0  # remains where there is nothing to score
        packs = [pack.result() for pack in group.packs]
        done = [pack for pack in packs if pack is not None]
        if len(done) == len(packs):
            write_sums(sums, self.layout.layout, range(len(sums)), done)
        else:
            self._drain()
            score_again(self.engine, group.requests, group.budgets, self.layout, sums)
        for row, request in zip(sums, group.requests, strict=True):
            if request.plain:
                columns = [self.layout.layout.columns[member] for member in request.plain]
                row[columns] = self._plain_row(request, columns)[columns]
            yield row

    def _plain_row(self, request: Request, columns: Sequence[int]) -> Row:
        """Sums by the plain engine, in the caller's thread, which has all cores."""
        try:
            return self.engine.plain.row(request.prefix, self.continuations, columns)
        except OutOfMemory:
            pass  # what the failed pass allocated is free only after the handler
        self._drain()
        return self.engine.plain.row(request.prefix, self.continuations, columns)

    def _drain(self) -> None:
        """Wait until no pass runs and no keys and values are in memory: those of a group are kept by its packs."""
        for group in self.in_flight:
            self._submit_packs(group)
        for group in self.in_flight:
            wait(group.packs)
