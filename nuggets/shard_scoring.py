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


@dataclass(frozen=True, slots=True)
class Scorer:
    """What turns candidates into stored cells: where they go, and the model and prompts that the key stands for."""

    store: Store
    key: str
    profile: PromptProfile
    model: LanguageModel
    should_stop: Callable[[], bool]


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

    Cells that an earlier, interrupted attempt at the same batches has left are used, not computed. Raises InputError
    naming the candidate and anchor if the model returns no number, and Interrupted when asked to stop; whatever ends
    it, what was computed before is stored.
    """
    computed = 0
    for batch in batches:
        group = group_of(batch.candidate_ids)
        wanted = [anchors[index] for index in batch.anchors]
        anchor_ids = [anchor.id for anchor in wanted]
        stored = read_cells(scorer.store, scorer.key, batch.candidate_ids, anchor_ids, group=group)
        for part in missing_batches(batch.candidate_ids, stored):
            candidates = [(candidate, examples[candidate]) for candidate in part.candidate_ids]
            computed += _score_batch(scorer, group, candidates, [wanted[index] for index in part.anchors])
    return computed


def _score_batch(
    scorer: Scorer, group: str, candidates: Sequence[tuple[str, Example]], anchors: Sequence[Anchor]
) -> int:
    # An anchor that stands twice in the set is one column: it is scored once and counted twice.
    distinct = list({anchor.id: anchor for anchor in anchors}.values())
    continuations = [scorer.profile.anchor(anchor.example) for anchor in distinct]
    demonstrations = (scorer.profile.demonstration(example) for _, example in candidates)
    rows: list[np.ndarray] = []
    done = 0

    def commit() -> None:
        ids = tuple(candidate for candidate, _ in candidates[done - len(rows) : done])
        if ids:
            block = CellBlock(ids, tuple(anchor.id for anchor in distinct), np.array(rows, dtype=np.float32))
            write_block(scorer.store, scorer.key, group, block)
        rows.clear()

    last_commit = time.monotonic()
    try:
        for (candidate, _), sums in zip(
            candidates, scorer.model.log_prob_sums(demonstrations, continuations), strict=True
        ):
            broken = np.flatnonzero(~np.isfinite(sums))
            if len(broken):
                raise InputError(
                    f"candidate {candidate}, anchor {distinct[broken[0]].id}: the model returned {sums[broken[0]]} "
                    "instead of a log-probability; try dtype=float32, or remove this example from the pool"
                )
            rows.append(sums)
            done += 1
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
    return len(candidates) * len(anchors)
