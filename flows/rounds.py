"""Rounds of scoring: tasks on all devices, and between two rounds a look at who is still in the race."""

import queue
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from prefect import unmapped
from prefect.futures import PrefectFuture, wait

from flows.cancelling import tell_tasks_elsewhere
from flows.engine import Engine
from flows.progress_artifact import scoring_shown
from nuggets.cuts import Cut
from nuggets.errors import Interrupted, NuggetsError
from nuggets.pool import Pool
from nuggets.preparation import PreparedRun
from nuggets.progress import report_cells, report_stage
from nuggets.scoring_plan import Round, ScoringUnit
from nuggets.stopping import check_stop, stop_requested
from tasks.plan import plan
from tasks.score import score, tasks_pausing

_LOOK_SECONDS = 1.0  # between two looks at whether someone asked to stop
_END_SECONDS = (
    20.0  # for tasks elsewhere: they look every few seconds whether their run is over; a cancelled run has 30
)


@dataclass(frozen=True)
class Scoring:
    """What is to be scored and for which cut (None for the whole table), and on what."""

    prepared: PreparedRun
    pool: Pool
    anchors: str
    cut: Cut | None
    engine: Engine
    others: tuple[int, ...] = ()  # shards that some other flow run scores

    def plan(self, number: int, busy: Collection[int] = ()) -> Round:
        """The next round; `busy` shards are being scored already, or can't be."""
        left_out = sorted({*self.others, *busy})
        return plan(self.prepared, self.pool, self.anchors, self.cut, number, left_out, self.engine.workers)


@dataclass(frozen=True, slots=True)
class Scored:
    """What the rounds came to: how many there were, and cells computed in them."""

    rounds: int
    computed: int


def score_in_rounds(scoring: Scoring, first: Round) -> Scored:
    """Score until the cut is certain; without one, until every cell is there. `first` is the plan of round 0.

    The next round is planned as soon as a worker has nothing left to do. Shards that are still being scored count as
    they stand and get no further work, so nobody waits for a slow one; nor for one that fails, which is reported when
    all others are done.
    """
    with scoring_shown(sum(unit.cells for unit in first.units)):
        scored = _score_in_rounds(scoring, first)
    there = 100 * (first.found + scored.computed) / max(1, first.table)
    report_stage(
        f"cells: {scored.computed} computed in {scored.rounds} rounds, {there:.0f} % of the full table are there"
    )
    return scored


def _score_in_rounds(scoring: Scoring, first: Round) -> Scored:
    tasks = _Tasks(scoring.engine)
    rounds = 0
    plan_now = first
    try:
        while True:
            if plan_now.units:
                rounds += 1
                tasks.start(scoring.prepared, plan_now, scoring.anchors)
            if not tasks.running:
                break
            tasks.wait_until_a_worker_is_free()
            plan_now = scoring.plan(plan_now.number + 1, tasks.busy_shards())
    except BaseException:
        tasks.let_end()
        raise
    if tasks.failed:
        raise _failure(tasks.failed)
    return Scored(rounds, tasks.computed)


class _Tasks:
    """The scoring tasks of a run: those that run, those that have failed, and what the others have computed."""

    def __init__(self, engine: Engine) -> None:
        self.running: dict[PrefectFuture[Any], ScoringUnit] = {}
        self.failed: dict[PrefectFuture[Any], ScoringUnit] = {}
        self.computed = 0
        self._engine = engine
        self._done: queue.SimpleQueue[PrefectFuture[Any]] = queue.SimpleQueue()

    def start(self, prepared: PreparedRun, planned: Round, anchors: str) -> None:
        """Have a round's units scored."""
        futures = self._engine.map(
            score,
            prepared=unmapped(prepared),
            unit=list(planned.units),
            anchors_path=unmapped(anchors),
            elsewhere=unmapped(self._engine.elsewhere),
        )
        self.running |= dict(zip(futures, planned.units, strict=True))
        for future in futures:
            future.add_done_callback(self._done.put)

    def wait_until_a_worker_is_free(self) -> None:
        """Wait until fewer tasks run than there are workers. Raises Interrupted if someone asked to stop."""
        while True:
            try:
                self._settle(self._done.get(timeout=_LOOK_SECONDS))
                while not self._done.empty():
                    self._settle(self._done.get())
            except queue.Empty:
                pass
            check_stop()
            # Who waits to be tried again leaves his device to others.
            if len(self.running) - tasks_pausing() < self._engine.workers:
                return

    def _settle(self, future: PrefectFuture[Any]) -> None:
        unit = self.running.pop(future)
        future.wait()  # done it is, but its state is known here only after this
        if future.state.is_completed():
            computed = future.result()
            self.computed += computed
            if self._engine.elsewhere:
                report_cells(computed=computed)
        else:
            cause = _cause(future)
            if isinstance(cause, Interrupted):
                raise cause
            self.failed[future] = unit

    def let_end(self) -> None:
        """Give tasks elsewhere the time to store what they have: some clusters end them together with their client.

        Those of this machine hear of a wish to stop as the flow does, and its engine waits for them.
        """
        if self._engine.elsewhere and self.running:
            if stop_requested():
                tell_tasks_elsewhere()
            wait(list(self.running), timeout=_END_SECONDS)

    def busy_shards(self) -> list[int]:
        """Shards that are being scored, or can't be."""
        units = (*self.running.values(), *self.failed.values())
        return sorted({shard for unit in units for shard in unit.shards})


def _cause(future: PrefectFuture[Any]) -> Any:
    """Why a task failed: its error, or what there is to know if it was lost with its process."""
    try:
        return future.result(raise_on_failure=False)
    except Exception as error:
        return error


def _failure(failed: dict[PrefectFuture[Any], ScoringUnit]) -> NuggetsError:
    causes = [_cause(future) for future in failed]
    shards = sorted({shard for unit in failed.values() for shard in unit.shards})
    error = NuggetsError(
        f"{len(failed)} tasks of stage 'score' failed (shards {', '.join(map(str, shards[:20]))}"
        f"{', ...' if len(shards) > 20 else ''}), first: {causes[0]}. "
        "What the others computed is stored; run again to do the rest"
    )
    error.__cause__ = causes[0] if isinstance(causes[0], BaseException) else None
    return error
