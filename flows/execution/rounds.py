"""Rounds of scoring: tasks on all devices, and between two rounds a look at who is still in the race."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from prefect import unmapped
from prefect.futures import PrefectFuture

from flows.execution.executor import Executor
from flows.execution.futures import TasksInHand, cause_of, failure
from flows.execution.progress_artifact import scoring_shown
from nuggets.errors import Interrupted, StoreError
from nuggets.pools.shards import Pool
from nuggets.progress import pluralize, report_cells, report_stage
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.cuts import Cut
from nuggets.steps.plan_round import Round, ScoringUnit
from tasks.plan import plan
from tasks.score import score, tasks_pausing


@dataclass(frozen=True)
class Scoring:
    """What is to be scored and for which cut (None for the whole table), and on what."""

    prepared: PreparedRun
    pool: Pool
    anchors: str
    cut: Cut | None
    executor: Executor
    others: tuple[int, ...] = ()  # shards that some other flow run scores

    def first_plan(self) -> Round:
        """The plan of round 0. Without tasks where flow runs of a deployment score first: they make their own plans."""
        return self.plan(0, range(len(self.pool.shards)) if self.executor.deployment else ())

    def plan(self, number: int, busy: Collection[int] = ()) -> Round:
        """The next round; `busy` shards are being scored already, or can't be."""
        left_out = {*self.others, *busy}
        return plan(self.prepared, self.pool, self.anchors, self.cut, number, left_out, self.executor.workers)


@dataclass(frozen=True, slots=True)
class Scored:
    """What the rounds came to: how many there were, and cells computed in them."""

    rounds: int
    computed: int


def score_in_rounds(scoring: Scoring, first: Round) -> Scored:
    """Score until the cut is certain; without one, until every cell is there. `first` is the plan of round 0.

    The next round is planned as soon as a worker has nothing left to do and something is new. Shards that are still
    being scored count as they stand and get no further work, so nobody waits for a slow one; nor for one that fails,
    which is reported when all others are done.
    """
    with scoring_shown(sum(unit.cells for unit in first.units)):
        scored = _score_in_rounds(scoring, first)
    there = 100 * (first.found + scored.computed) / max(1, first.table)
    report_stage(
        f"cells: {scored.computed} computed in {pluralize(scored.rounds, 'round')}, "
        f"{there:.0f} % of the full table are there"
    )
    return scored


def _score_in_rounds(scoring: Scoring, first: Round) -> Scored:
    tasks = _Tasks(scoring.executor)
    rounds = 0
    plan_now = first
    try:
        while True:
            if plan_now.units:
                rounds += 1
                tasks.start(scoring.prepared, plan_now, scoring.anchors)
            if tasks.in_hand:
                tasks.wait_for_news()
            elif not plan_now.requested:
                break
            plan_now = _next_plan(scoring, plan_now, tasks.busy_shards())
    except BaseException:
        tasks.in_hand.let_end()
        raise
    if tasks.failed:
        raise _failure(tasks.failed)
    return Scored(rounds, tasks.computed)


def _next_plan(scoring: Scoring, last: Round, busy: Collection[int]) -> Round:
    """The plan of the next round.

    If `last` had no tasks, another run has stored the cells that it asked for, so this plan finds more cells. Raises
    StoreError if it does not: without this check, a store that lists a block now and then would be planned for ever.
    """
    planned = scoring.plan(last.number + 1, busy)
    if last.requested and not last.units and planned.found <= last.found:
        raise StoreError(
            f"run '{scoring.prepared.name}': the {last.requested} cells of round {last.number} were stored when its "
            f"tasks were made, and are missing again in round {planned.number}: check that the store lists the same "
            "files below cells/ each time, then run the same command again"
        )
    return planned


class _Tasks:
    """The scoring tasks of a run: those that run, those that have failed, and what the others have computed."""

    def __init__(self, executor: Executor) -> None:
        self.in_hand = TasksInHand(executor)
        self.failed: dict[PrefectFuture[Any], ScoringUnit] = {}
        self.computed = 0
        self._units: dict[PrefectFuture[Any], ScoringUnit] = {}  # of those in hand
        self._engine = executor
        self._pausing = 0

    def start(self, prepared: PreparedRun, planned: Round, anchors: str) -> None:
        """Have a round's units scored."""
        futures = self._engine.map(
            score,
            prepared=unmapped(prepared),
            unit=list(planned.units),
            anchors_path=unmapped(anchors),
            remote=unmapped(self._engine.remote),
        )
        self._units |= dict(zip(futures, planned.units, strict=True))
        self.in_hand.add(futures)

    def wait_for_news(self) -> None:
        """Wait until fewer tasks run than there are workers, and one has ended or waits to be tried again.

        Until then another plan would find what the last one did, and read every cell of the run for it.
        """
        news = False
        while True:
            for future in self.in_hand.ended():
                self._settle(future)
                news = True
            pausing = tasks_pausing()  # they leave their devices to others
            news = news or pausing > self._pausing
            self._pausing = pausing
            if news and len(self.in_hand) - pausing < self._engine.workers:
                return

    def _settle(self, future: PrefectFuture[Any]) -> None:
        unit = self._units.pop(future)
        if future.state.is_completed():
            computed = future.result()
            self.computed += computed
            if self._engine.remote:
                report_cells(computed=computed)
        else:
            cause = cause_of(future)
            if isinstance(cause, Interrupted):
                raise cause
            self.failed[future] = unit

    def busy_shards(self) -> set[int]:
        """Shards that are being scored, or can't be."""
        return _shards([*self._units.values(), *self.failed.values()])


def _failure(failed: dict[PrefectFuture[Any], ScoringUnit]) -> Exception:
    shards = sorted(_shards(failed.values()))
    named = ", ".join(map(str, shards[:20])) + (", ..." if len(shards) > 20 else "")
    return failure(f"{len(failed)} tasks of stage 'score' failed (shards {named})", list(map(cause_of, failed)))


def _shards(units: Iterable[ScoringUnit]) -> set[int]:
    return {shard for unit in units for shard in unit.shards}
