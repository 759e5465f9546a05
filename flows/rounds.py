"""Rounds of scoring: tasks on all devices, and between two rounds a look at who is still in the race."""

from dataclasses import dataclass
from typing import Any

from prefect import unmapped
from prefect.futures import PrefectFuture, as_completed

from flows.progress_artifact import scoring_shown
from nuggets.cuts import Cut
from nuggets.errors import Interrupted, NuggetsError
from nuggets.pool import Pool
from nuggets.preparation import PreparedRun
from nuggets.progress import report_stage
from nuggets.scoring_plan import Round, ScoringUnit
from nuggets.stopping import check_stop
from tasks.plan import plan
from tasks.score import score

WORKERS = 1  # each scoring task uses all cores, or the GPU, by itself; two at once would load the model twice


@dataclass(frozen=True, slots=True)
class Scored:
    """What the rounds came to: the first plan, how many rounds there were, and cells computed in them."""

    first: Round
    rounds: int
    computed: int


def first_round(prepared: PreparedRun, pool: Pool, anchors: str, cut: Cut | None) -> Round:
    """What is stored, and what comes first."""
    return plan(prepared, pool, anchors, cut, 0, [], WORKERS)


def score_in_rounds(prepared: PreparedRun, pool: Pool, anchors: str, cut: Cut | None, first: Round) -> Scored:
    """Score until the cut is certain; without one, until every cell is there.

    The next round is planned as soon as a worker has nothing left to do. Shards that are still being scored count as
    they stand and get no further work, so nobody waits for a slow one; nor for one that fails, which is reported when
    all others are done.
    """
    with scoring_shown(sum(unit.cells for unit in first.units)):
        scored = _score_in_rounds(prepared, pool, anchors, cut, first)
    there = 100 * (first.found + scored.computed) / max(1, first.table)
    report_stage(
        f"cells: {scored.computed} computed in {scored.rounds} rounds, {there:.0f} % of the full table are there"
    )
    return scored


def _score_in_rounds(prepared: PreparedRun, pool: Pool, anchors: str, cut: Cut | None, first: Round) -> Scored:
    running: dict[PrefectFuture[Any], ScoringUnit] = {}
    failed: dict[PrefectFuture[Any], ScoringUnit] = {}
    rounds = computed = 0
    plan_now = first
    while True:
        if plan_now.units:
            rounds += 1
            running |= _start(prepared, plan_now, anchors)
        if not running:
            break
        for future in as_completed(list(running)):
            unit = running.pop(future)
            future.wait()  # done it is, but its state is known here only after this
            if future.state.is_completed():
                computed += future.result()
            else:
                failed[future] = unit
            if len(running) < WORKERS:
                break
        _raise_if_stopped(failed)
        busy = sorted({shard for unit in (*running.values(), *failed.values()) for shard in unit.shards})
        plan_now = plan(prepared, pool, anchors, cut, plan_now.number + 1, busy, WORKERS)
    if failed:
        raise _failure(failed)
    return Scored(first, rounds, computed)


def _start(prepared: PreparedRun, planned: Round, anchors: str) -> dict[PrefectFuture[Any], ScoringUnit]:
    futures = score.map(unmapped(prepared), list(planned.units), unmapped(anchors))
    return dict(zip(futures, planned.units, strict=True))


def _raise_if_stopped(failed: dict[PrefectFuture[Any], ScoringUnit]) -> None:
    for future in failed:
        cause = future.state.result(raise_on_failure=False)
        if isinstance(cause, Interrupted):
            raise cause
    check_stop()


def _failure(failed: dict[PrefectFuture[Any], ScoringUnit]) -> NuggetsError:
    causes = [future.state.result(raise_on_failure=False) for future in failed]
    shards = sorted({shard for unit in failed.values() for shard in unit.shards})
    error = NuggetsError(
        f"{len(failed)} tasks of stage 'score' failed (shards {', '.join(map(str, shards[:20]))}"
        f"{', ...' if len(shards) > 20 else ''}), first: {causes[0]}. "
        "What the others computed is stored; run again to do the rest"
    )
    error.__cause__ = causes[0] if isinstance(causes[0], BaseException) else None
    return error
