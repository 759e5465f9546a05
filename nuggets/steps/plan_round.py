"""The plan of a scoring round: the cells that are stored, the candidates that are undecided, and the next tasks."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nuggets.anchors.anchor_set import Anchor
from nuggets.cells.folders import cells_folder
from nuggets.cells.unscorable import NO_FINITE_NUMBER
from nuggets.errors import InputError
from nuggets.models.prompts import PromptProfile
from nuggets.models.scoring_setup import open_profile
from nuggets.pools.shards import Candidate, Pool, read_candidates
from nuggets.progress import pluralize, report_round, report_stage
from nuggets.racing.next_round import CellsToCompute, ShardGains, next_round, whole_table
from nuggets.racing.work_list import ShardWork, count_cells, join_work, shard_work, split_work, write_worklist
from nuggets.runs.manifest import run_folder
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.cuts import Cut
from nuggets.steps.run_cells import run_cells

_MEASURED = 64  # candidates whose demonstrations give the mean length


@dataclass(frozen=True, slots=True)
class ScoringUnit:
    """One scoring task: neighbouring shards, the path of its work list, and the folder of its blocks."""

    round: int
    index: int
    shards: tuple[int, ...]  # positions among the pool's shards
    folder: str
    worklist: str
    candidates: int
    cells: int


@dataclass(frozen=True, slots=True)
class Round:
    """A round's tasks, and the state before it: cells of the full table, stored cells, undecided candidates.

    Unscorable candidates are not among `candidates`, and their cells are in no count.

    `requested` is the number of cells that the round needs of its free shards. Cells that another run stores while the
    round is planned are in no task: a round without tasks is the last one only if it asks for nothing.
    """

    number: int
    candidates: int
    table: int
    stored: int
    undecided: int
    requested: int
    units: tuple[ScoringUnit, ...]


def plan_round(
    prepared: PreparedRun,
    pool: Pool,
    anchors_path: str,
    cut: Cut | None,
    *,
    number: int,
    busy: Collection[int] = frozenset(),
    workers: int = 1,
) -> Round:
    """The next round of a race for a cut, or of the full table without one; it has no tasks if no cell is needed.

    It has at least one task per worker where there are enough candidates. `busy` shards are being scored or have
    failed: their known cells count, and they get no new work. The result is exact without waiting for them, because
    missing cells can only lower the cutoff.
    """
    unscorable: set[str] = set()
    # One BLAS thread: the products are small, and threads would wait for each other where tasks use the cores.
    with threadpool_limits(1), run_cells(prepared, pool, anchors_path) as cells:

        def gains_of_pool() -> Iterator[ShardGains]:
            for shard in cells.shards():
                ids = shard.cells.candidate_ids
                unscorable.update(ids.filter(~shard.eligible.any(axis=1)).to_pylist())
                index = shard.cells.index
                yield ShardGains(index, ids, shard.gains, shard.eligible, free=index not in busy)

        if cut is None:
            race = whole_table(gains_of_pool)
        else:
            profile = open_profile(prepared.setup)
            tokens = _tokens(profile, cells.anchors)
            min_cells = _min_cells(profile, read_candidates(prepared.store, pool.shards[0]), tokens)
            race = next_round(gains_of_pool, cut, tokens, min_cells=min_cells, round_number=number)
        without_number = [key for key in unscorable if cells.unscorable.get(key) == NO_FINITE_NUMBER]
        _check_unscorable(without_number, prepared.max_bad_candidates)
        scorable = pool.examples - len(unscorable)
        table = scorable * len(cells.anchors)
        share = max(1, min(pool.shard_examples[0] * len(cells.anchors), ceil(race.requested / workers)))
        tasks = group_work(race.choices, cells_at_most=share)
        units = tuple(_unit(prepared, pool, task, number=number, index=index) for index, task in enumerate(tasks))
    plan = Round(number, scorable, table, race.known, race.undecided, race.requested, units)
    _report(plan, anchors=len(cells.anchors), racing=cut is not None)
    return plan


def _check_unscorable(candidates: Collection[str], allowed: int) -> None:
    if len(candidates) > allowed:
        named = ", ".join(sorted(candidates)[:10]) + (", ..." if len(candidates) > 10 else "")
        raise InputError(
            f"the model returned NaN or inf for {pluralize(len(candidates), 'candidate')} (max_bad_candidates="
            f"{allowed}): {named}. Raise max_bad_candidates, try dtype=float32, or remove them from the pool"
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    """The work of a shard or a piece of it, with the first and the last id of the shard."""

    shard: int
    ids: tuple[str, str]
    work: ShardWork

    @property
    def cells(self) -> int:
        return int(self.work.cells.sum())


def group_work(choices: Iterable[CellsToCompute], *, cells_at_most: int) -> Iterator[list[_Piece]]:
    """Pieces of neighbouring shards, joined until they fill a task: late rounds need few cells of each shard."""
    task: list[_Piece] = []
    cells = 0
    for piece in _pieces(choices, cells_at_most):
        if task and cells + piece.cells > cells_at_most:
            yield task
            task, cells = [], 0
        task.append(piece)
        cells += piece.cells
    if task:
        yield task


def _pieces(choices: Iterable[CellsToCompute], cells_at_most: int) -> Iterator[_Piece]:
    """The work of each shard, split evenly where it is more than one task may take: the first round is in one shard."""
    for choice in choices:
        ids = choice.shard.candidate_ids
        ends = (ids[0].as_py(), ids[-1].as_py())
        work = shard_work(choice.cells)
        if not len(work.positions):  # another run has stored these cells since they were counted
            continue
        pieces = min(len(work.positions), ceil(int(choice.cells.sum()) / cells_at_most))
        yield from (_Piece(choice.shard.index, ends, piece) for piece in split_work(work, pieces))


def _unit(prepared: PreparedRun, pool: Pool, task: Sequence[_Piece], *, number: int, index: int) -> ScoringUnit:
    shards = sorted({piece.shard for piece in task})
    worklist = {
        pool.shards[shard]: join_work([piece.work for piece in task if piece.shard == shard]) for shard in shards
    }
    return ScoringUnit(
        round=number,
        index=index,
        shards=tuple(shards),
        folder=cells_folder(prepared.setup.key, [end for piece in task for end in piece.ids]),
        worklist=write_worklist(prepared.store, f"{run_folder(prepared.name)}/worklists", worklist),
        candidates=sum(len(work.positions) for work in worklist.values()),
        cells=count_cells(worklist),
    )


def _tokens(profile: PromptProfile, anchors: Sequence[Anchor]) -> NDArray[np.float64]:
    """The tokens of each anchor, the cost of a cell. A demonstration is computed once per candidate and round."""
    return np.array([max(1, len(profile.anchor(anchor.example).ids)) for anchor in anchors], dtype=np.float64)


def _min_cells(profile: PromptProfile, candidates: Sequence[Candidate], tokens: NDArray[np.float64]) -> int:
    """The fewest cells of a candidate in a round, so that its demonstration is at most about a fifth of the tokens."""
    lengths = [len(profile.demonstration(candidate.example).ids) for candidate in candidates[:_MEASURED]]
    return max(1, round(4 * float(np.mean(lengths)) / float(tokens.mean())))


def _report(plan: Round, *, anchors: int, racing: bool) -> None:
    cells = sum(unit.cells for unit in plan.units)
    # An upper bound: the race decides how many of the missing cells the undecided candidates need.
    at_most = min(plan.table - plan.stored, plan.undecided * anchors) if racing else cells
    if plan.number == 0:
        report_stage(
            f"cells: {plan.table} in the full table, {plan.stored} stored, {_rest(plan, at_most, racing=racing)}"
        )
    if racing and plan.units:
        candidates = sum(unit.candidates for unit in plan.units)
        report_stage(
            f"round {plan.number}: {plan.undecided} of {pluralize(plan.candidates, 'candidate')} undecided, "
            f"{pluralize(cells, 'cell')} of {pluralize(candidates, 'candidate')} next"
        )
    report_round(plan.number, to_compute=cells, at_most=at_most)


def _rest(plan: Round, at_most: int, *, racing: bool) -> str:
    if racing and not plan.undecided:
        return "nothing to compute: the cut is certain"
    if not plan.undecided:
        return "nothing to compute"
    if not plan.requested:
        return "nothing to compute here"
    return f"at most {at_most} to compute" if racing else f"{at_most} to compute"
