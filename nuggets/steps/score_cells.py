"""Score the cells of a task, candidate by candidate, and store them meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuggets.anchors.anchor_set import Anchor, read_anchors
from nuggets.cells.folders import compact, read_cells
from nuggets.cells.unscorable import record_unscorable
from nuggets.engine.interface import LanguageModel
from nuggets.errors import InputError, Interrupted
from nuggets.examples import Example
from nuggets.models.prompts import PromptProfile
from nuggets.models.scoring_setup import open_model, open_profile
from nuggets.pools.shards import read_candidates, read_ids
from nuggets.progress import report_cells, report_stage
from nuggets.racing.work_list import Worklist, read_worklist
from nuggets.runs.engine_paths import record_engine_path
from nuggets.runs.prepared import PreparedRun
from nuggets.steps.block_writer import BlockWriter
from nuggets.steps.plan_round import ScoringUnit
from nuggets.stopping import stop_requested
from nuggets.store.store import Store

BROKEN_AT_MOST = 10  # candidates without a number; if there are more, the model is broken, and GPU hours are at stake


@dataclass(frozen=True, slots=True)
class Scorer:
    """What turns candidates into stored cells: model and prompts of a scoring key, and the folder for the blocks."""

    store: Store
    folder: str
    profile: PromptProfile
    model: LanguageModel
    should_stop: Callable[[], bool]
    scoring_key: str = ""
    max_bad_candidates: int = 0  # candidates of a task that may be recorded as unscorable


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A candidate and the anchors for which the model gave no finite log-probability."""

    candidate: str
    anchors: tuple[str, ...]


def score_unit(prepared: PreparedRun, unit: ScoringUnit, anchors_path: str) -> int:
    """Compute and store the cells of a scoring task; returns how many. Raises Interrupted if a stop is requested."""
    if stop_requested():
        raise Interrupted("stopped on request before this task began")
    store = prepared.store
    setup = prepared.setup
    model = open_model(setup)
    record_engine_path(store, prepared.name, model.path)
    scorer = Scorer(
        store,
        unit.folder,
        open_profile(setup),
        model,
        stop_requested,
        scoring_key=setup.key,
        max_bad_candidates=prepared.max_bad_candidates,
    )
    return score_worklist(scorer, read_worklist(store, unit.worklist), anchors=read_anchors(store, anchors_path))


def score_worklist(scorer: Scorer, worklist: Worklist, *, anchors: Sequence[Anchor]) -> int:
    """Compute and store the cells of a work list; returns how many were computed.

    Cells that an earlier, interrupted attempt at the same list has stored are not computed again. Cells for which the
    model returns no finite number are not stored: their candidates are recorded as unscorable, or, if there are more
    than `max_bad_candidates`, InputError names them once the others are done. Raises Interrupted if a stop is
    requested. However scoring ends, what was computed is stored.
    """
    # An anchor that occurs twice in the set is one column: it is scored once and counted twice.
    distinct = list({anchor.id: anchor for anchor in anchors}.values())
    missing = _missing(scorer, worklist, [anchor.id for anchor in anchors], [anchor.id for anchor in distinct])
    if missing:
        _score(scorer, missing, distinct)
    compact(scorer.store, scorer.folder)
    return sum(len(columns) for _, _, columns in missing)


_Missing = tuple[str, str, tuple[int, ...]]  # shard, candidate, columns among the distinct anchors


def _missing(
    scorer: Scorer, worklist: Worklist, anchor_ids: Sequence[str], distinct_ids: Sequence[str]
) -> list[_Missing]:
    ids = {shard: read_ids(scorer.store, shard)[0].take(work.positions).to_pylist() for shard, work in worklist.items()}
    candidates = [candidate for of_shard in ids.values() for candidate in of_shard]
    missing = np.isnan(read_cells(scorer.store, scorer.folder, candidates, distinct_ids))
    requested = np.zeros(missing.shape, dtype=bool)
    cells = np.concatenate([np.empty((0, len(anchor_ids)), dtype=bool), *(work.cells for work in worklist.values())])
    for anchor, anchor_id in enumerate(anchor_ids):  # an anchor that occurs twice in the set is one column
        requested[:, distinct_ids.index(anchor_id)] |= cells[:, anchor]
    missing &= requested
    shards = [shard for shard, of_shard in ids.items() for _ in of_shard]
    rows = [tuple(np.flatnonzero(row).tolist()) for row in missing]
    return [row for row in zip(shards, candidates, rows, strict=True) if row[2]]


def _score(scorer: Scorer, missing: Sequence[_Missing], anchors: Sequence[Anchor]) -> None:
    broken: list[BrokenRow] = []
    sums = scorer.model.log_prob_sums(
        (scorer.profile.demonstration(example).ids for example in _examples(scorer.store, missing)),
        [scorer.profile.anchor(anchor.example).continuation for anchor in anchors],
        wanted=(columns for _, _, columns in missing),
    )
    with BlockWriter(scorer.store, scorer.folder, [anchor.id for anchor in anchors]) as blocks:
        for done, ((_, candidate, columns), row) in enumerate(zip(missing, sums, strict=True), start=1):
            values, unknown = _cells(row, columns)
            blocks.add(candidate, values)
            if unknown:
                broken.append(BrokenRow(candidate, tuple(anchors[column].id for column in unknown)))
                if len(broken) > max(BROKEN_AT_MOST, scorer.max_bad_candidates):
                    raise _no_numbers(broken)
            report_cells(computed=len(columns))
            if scorer.should_stop() and done < len(missing):
                raise Interrupted(f"stopped on request; {done} of {len(missing)} candidates of this task are stored")
            blocks.write_if_due()
    if len(broken) > scorer.max_bad_candidates:
        raise _no_numbers(broken)
    if broken:
        record_unscorable(scorer.store, scorer.scoring_key, {row.candidate: row.anchors for row in broken})
        report_stage(
            f"unscorable, because the model gives no finite number: {', '.join(row.candidate for row in broken)}"
        )


def _cells(row: NDArray[np.float64], columns: Sequence[int]) -> tuple[NDArray[np.float32], list[int]]:
    """A candidate's sums as cells, and the wanted columns for which the model gave no finite number."""
    with np.errstate(over="ignore"):  # what exceeds float32 becomes infinite, and is not finite below
        values = row.astype(np.float32)
    unknown = [column for column in columns if not np.isfinite(values[column])]
    values[unknown] = np.nan  # a cell that is NaN counts as not computed
    return values, unknown


def _examples(store: Store, missing: Sequence[_Missing]) -> Iterator[Example]:
    """The candidates' examples, one shard in memory at a time."""
    current = ""
    examples: dict[str, Example] = {}
    for shard, candidate, _ in missing:
        if shard != current:
            examples = {item.id: item.example for item in read_candidates(store, shard)}
            current = shard
        yield examples[candidate]


def _no_numbers(broken: Sequence[BrokenRow]) -> InputError:
    count = sum(len(row.anchors) for row in broken)
    named = "; ".join(
        f"candidate {row.candidate} with anchor {row.anchors[0]}"
        + (f" and {len(row.anchors) - 1} more" if len(row.anchors) > 1 else "")
        for row in broken
    )
    return InputError(
        f"the model returned no finite log-probability for {count} of the cells, which are not stored: {named}. "
        "All other computed cells are stored. Try dtype=float32, remove these examples from the pool, or raise "
        "max_bad_candidates to record such candidates as unscorable"
    )
