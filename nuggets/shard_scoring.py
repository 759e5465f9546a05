"""Scoring one shard: the missing cells of its candidates, stored while they are computed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nuggets.anchors import Anchor, read_anchors
from nuggets.cells import CellBlock, group_of, read_cells, write_block
from nuggets.errors import InputError, Interrupted
from nuggets.examples import Example
from nuggets.pool import read_candidates
from nuggets.preparation import PreparedRun
from nuggets.progress import report_cells
from nuggets.prompts import PromptProfile
from nuggets.scoring.door import LanguageModel
from nuggets.scoring_plan import ShardWork
from nuggets.scoring_setup import open_model, open_profile
from nuggets.store import Store, open_store
from nuggets.worklist import Batch, missing_batches, read_worklist

COMMIT_SECONDS = 30.0  # what a killed process loses at most; each commit is one object in the store
_BROKEN_AT_MOST = 10  # candidates without a number: beyond it is the model that is broken, and GPU hours are at stake


@dataclass(frozen=True, slots=True)
class Scorer:
    """What turns candidates into stored cells: where they go, and the model and prompts that the key stands for."""

    store: Store
    key: str
    profile: PromptProfile
    model: LanguageModel
    should_stop: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A candidate and the anchors for which the model gave no finite log-probability."""

    candidate: str
    anchors: tuple[str, ...]


def score_shard(prepared: PreparedRun, work: ShardWork, anchors_path: str, *, should_stop: Callable[[], bool]) -> int:
    """Compute and store the cells on a work list; returns how many. Raises Interrupted if asked to stop."""
    if should_stop():
        raise Interrupted("stopped on request before this shard began")
    store = open_store(prepared.store)
    setup = prepared.setup
    return score_batches(
        Scorer(store, setup.key, open_profile(setup), open_model(setup), should_stop),
        read_worklist(store, work.worklist),
        examples={item.id: item.example for item in read_candidates(store, work.shard)},
        anchors=read_anchors(store, anchors_path),
    )


def score_batches(
    scorer: Scorer, batches: Sequence[Batch], *, examples: Mapping[str, Example], anchors: Sequence[Anchor]
) -> int:
    """Compute and store the cells of some batches; returns how many were computed.

    Cells that an earlier, interrupted attempt at the same batches has left are used, not computed. Cells for which
    the model returns no finite number are not stored: InputError counts and names them when the rest is done, or as
    soon as there are too many. Raises Interrupted when asked to stop. Whatever ends it, what was computed is stored.
    """
    computed = 0
    broken: list[BrokenRow] = []
    for batch in batches:
        group = group_of(batch.candidate_ids)
        wanted = [anchors[index] for index in batch.anchors]
        anchor_ids = [anchor.id for anchor in wanted]
        stored = read_cells(scorer.store, scorer.key, batch.candidate_ids, anchor_ids, group=group)
        for part in missing_batches(batch.candidate_ids, stored):
            candidates = [(candidate, examples[candidate]) for candidate in part.candidate_ids]
            _score_batch(scorer, group, candidates, [wanted[index] for index in part.anchors], broken)
            computed += part.cells
    if broken:
        raise _no_numbers(broken)
    return computed


def _score_batch(
    scorer: Scorer,
    group: str,
    candidates: Sequence[tuple[str, Example]],
    anchors: Sequence[Anchor],
    broken: list[BrokenRow],
) -> None:
    # An anchor that stands twice in the set is one column: it is scored once and counted twice.
    distinct = list({anchor.id: anchor for anchor in anchors}.values())
    continuations = [scorer.profile.anchor(anchor.example) for anchor in distinct]
    demonstrations = (scorer.profile.demonstration(example) for _, example in candidates)
    rows: list[np.ndarray] = []
    done = 0

    def commit() -> None:
        ids = [candidate for candidate, _ in candidates[done - len(rows) : done]]
        some = [place for place, row in enumerate(rows) if not np.isnan(row).all()]
        if some:
            values = np.array([rows[place] for place in some])
            block = CellBlock(tuple(ids[place] for place in some), tuple(anchor.id for anchor in distinct), values)
            write_block(scorer.store, scorer.key, group, block)
        rows.clear()

    last_commit = time.monotonic()
    try:
        for (candidate, _), sums in zip(
            candidates, scorer.model.log_prob_sums(demonstrations, continuations), strict=True
        ):
            with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite and is counted below
                rows.append(sums.astype(np.float32))
            done += 1
            unknown = np.flatnonzero(~np.isfinite(rows[-1]))
            if len(unknown):
                rows[-1][unknown] = np.nan  # 'not computed' to whoever reads it, whatever the model said
                broken.append(BrokenRow(candidate, tuple(distinct[column].id for column in unknown)))
                if len(broken) > _BROKEN_AT_MOST:
                    raise _no_numbers(broken)
            report_cells(computed=len(anchors))
            if scorer.should_stop() and done < len(candidates):
                raise Interrupted(
                    f"stopped on request; {done} of {len(candidates)} candidates of this shard are stored"
                )
            if time.monotonic() - last_commit > COMMIT_SECONDS:
                commit()
                last_commit = time.monotonic()
    finally:
        commit()  # also when the model has failed or someone has stopped us: these numbers cost compute


def _no_numbers(broken: Sequence[BrokenRow]) -> InputError:
    count = sum(len(row.anchors) for row in broken)
    named = "; ".join(
        f"candidate {row.candidate} with anchor {row.anchors[0]}"
        + (f" and {len(row.anchors) - 1} more" if len(row.anchors) > 1 else "")
        for row in broken
    )
    return InputError(
        f"the model returned no finite log-probability for {count} of the cells, which are not stored: {named}. "
        "Everything else that was computed is. Try dtype=float32, or remove these examples from the pool"
    )
