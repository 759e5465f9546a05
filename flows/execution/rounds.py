"""Rounds of scoring: tasks on all workers, and between two rounds a plan of the cells that the cut still needs."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from prefect import unmapped
from prefect.futures import PrefectFuture

from flows.execution.executor import Executor
from flows.execution.futures import RunningTasks, cause_of, failure
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
    """The run to score, the cut (None for the full table), and the executor."""

    prepared: PreparedRun
    pool: Pool
    anchors: str
    cut: Cut | None
    executor: Executor
    others: tuple[int, ...] = ()  # shards that other flow runs score

    def first_plan(self) -> Round:
        """The plan of round 0. Without tasks where flow runs of a deployment score first: they make their own plans."""
        return self.plan(0, range(len(self.pool.shards)) if self.executor.deployment else ())

    def plan(self, number: int, busy: Collection[int] = ()) -> Round:
        """The next round. `busy` shards get no tasks: they are being scored, or have failed."""
        left_out = {*self.others, *busy}
        return plan(self.prepared, self.pool, self.anchors, self.cut, number, left_out, self.executor.workers)


@dataclass(frozen=True, slots=True)
class Scored:
    """The number of rounds, and of cells computed in them."""

    rounds: int
    computed: int


def score_in_rounds(scoring: Scoring, first: Round) -> Scored:
    """Score until the cut is decided; without a cut, until no cell is missing. `first` is the plan of round 0.

    The next round is planned when a worker is idle and a task has ended. Shards that are still being scored count with
    their stored cells and get no further tasks, so that a slow shard delays no other. A failed shard is reported when
    all others are done.
    """
    with scoring_shown(sum(unit.cells for unit in first.units)):
        scored = _score_in_rounds(scoring, first)
    percent = 100 * (first.stored + scored.computed) / max(1, first.table)
    report_stage(
        f"cells: {scored.computed} computed in {pluralize(scored.rounds, 'round')}, "
        f"{percent:.0f} % of the full table are stored"
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
            if tasks.running:
                tasks.wait_until_idle()
            elif not plan_now.requested:
                break
            plan_now = _next_plan(scoring, plan_now, tasks.busy_shards())
    except BaseException:
        tasks.running.let_end()
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
    if last.requested and not last.units and planned.stored <= last.stored:
        raise StoreError(
            f"run '{scoring.prepared.name}': the {last.requested} cells of round {last.number} were stored when its "
            f"tasks were made, and are missing again in round {planned.number}: check that the store lists the same "
            "files below cells/ each time, then run the same command again"
        )
    return planned


class _Tasks:
    """The scoring tasks of a run: the running and the failed ones, and how many cells the others have computed."""

    def __init__(self, executor: Executor) -> None:
        self.running = RunningTasks(executor)
        self.failed: dict[PrefectFuture[Any], ScoringUnit] = {}
        self.computed = 0
        self._units: dict[PrefectFuture[Any], ScoringUnit] = {}  # of the running tasks
        self._executor = executor
        self._pausing = 0

    def start(self, prepared: PreparedRun, planned: Round, anchors: str) -> None:
        """Start a task for each unit of a round."""
        futures = self._executor.map(
            score,
            prepared=unmapped(prepared),
            unit=list(planned.units),
            anchors_path=unmapped(anchors),
            remote=unmapped(self._executor.remote),
        )
        self._units |= dict(zip(futures, planned.units, strict=True))
        self.running.add(futures)

    def wait_until_idle(self) -> None:
        """Wait until a worker is idle, and a task has ended or waits for its next try.

        An earlier plan would be the same as the last one, and would read every cell of the run again.
        """
        has_changed = False
        while True:
            for future in self.running.ended():
                self._settle(future)
                has_changed = True
            pausing = tasks_pausing()  # these tasks hold no device
            has_changed = has_changed or pausing > self._pausing
            self._pausing = pausing
            if has_changed and len(self.running) - pausing < self._executor.workers:
                return

    def _settle(self, future: PrefectFuture[Any]) -> None:
        unit = self._units.pop(future)
        if future.state.is_completed():
            computed = future.result()
            self.computed += computed
            if self._executor.remote:
                report_cells(computed=computed)
        else:
            cause = cause_of(future)
            if isinstance(cause, Interrupted):
                raise cause
            self.failed[future] = unit

    def busy_shards(self) -> set[int]:
        """Shards that are being scored, or have failed."""
        return _shards([*self._units.values(), *self.failed.values()])


def _failure(failed: dict[PrefectFuture[Any], ScoringUnit]) -> Exception:
    shards = sorted(_shards(failed.values()))
    named = ", ".join(map(str, shards[:20])) + (", ..." if len(shards) > 20 else "")
    return failure(f"{len(failed)} tasks of stage 'score' failed (shards {named})", list(map(cause_of, failed)))


def _shards(units: Iterable[ScoringUnit]) -> set[int]:
    return {shard for unit in units for shard in unit.shards}
