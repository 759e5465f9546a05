"""Scoring one shard: the missing cells of its candidates, stored while they are computed."""

import logging
import time
from collections.abc import Callable, Sequence

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

logger = logging.getLogger(__name__)

COMMIT_SECONDS = 30.0  # what a killed process loses at most; each commit is one object in the store


def score_shard(prepared: PreparedRun, work: ShardWork, anchors_path: str, *, should_stop: Callable[[], bool]) -> int:
    """Compute and store the cells on a work list; returns how many. Raises Interrupted if asked to stop."""
    if should_stop():
        raise Interrupted("stopped on request before this shard began")
    store = open_store(prepared.store)
    return score_batches(
        store,
        prepared.setup.key,
        read_worklist(store, work.worklist),
        examples={item.id: item.example for item in read_candidates(store, work.shard)},
        anchors=read_anchors(store, anchors_path),
        profile=open_profile(prepared.setup),
        model=open_model(prepared.setup),
        should_stop=should_stop,
    )


def score_batches(
    store: Store,
    key: str,
    batches: Sequence[Batch],
    *,
    examples: dict[str, Example],
    anchors: Sequence[Anchor],
    profile: PromptProfile,
    model: LanguageModel,
    should_stop: Callable[[], bool],
) -> int:
    """Compute and store the cells of some batches under a scoring key; returns how many were computed.

    Cells that an earlier, interrupted attempt at the same batches has left are used, not computed. Raises InputError
    naming the candidate and anchor if the model returns no number, and Interrupted when asked to stop; both after
    storing what was computed before.
    """
    computed = 0
    for batch in batches:
        group = group_of(batch.candidate_ids)
        wanted = [anchors[index] for index in batch.anchors]
        left = missing_batches(
            batch.candidate_ids, read_cells(store, key, batch.candidate_ids, [item.id for item in wanted], group=group)
        )
        for part in left:
            computed += _score_batch(
                store,
                key,
                group,
                candidates=[(candidate, examples[candidate]) for candidate in part.candidate_ids],
                anchors=[wanted[index] for index in part.anchors],
                profile=profile,
                model=model,
                should_stop=should_stop,
            )
    return computed


def _score_batch(
    store: Store,
    key: str,
    group: str,
    *,
    candidates: Sequence[tuple[str, Example]],
    anchors: Sequence[Anchor],
    profile: PromptProfile,
    model: LanguageModel,
    should_stop: Callable[[], bool],
) -> int:
    # An anchor that stands twice in the set is one column: it is scored once and counted twice.
    distinct = list({anchor.id: anchor for anchor in anchors}.values())
    continuations = [profile.anchor(anchor.example) for anchor in distinct]
    demonstrations = (profile.demonstration(example) for _, example in candidates)
    rows: list[np.ndarray] = []
    stored = 0

    def commit() -> None:
        nonlocal stored
        ids = tuple(candidate for candidate, _ in candidates[stored : stored + len(rows)])
        if ids:
            values = np.array(rows, dtype=np.float32)
            write_block(store, key, group, CellBlock(ids, tuple(anchor.id for anchor in distinct), values))
        stored += len(rows)
        rows.clear()

    last_commit = time.monotonic()
    for (candidate, _), sums in zip(candidates, model.log_prob_sums(demonstrations, continuations), strict=True):
        broken = np.flatnonzero(~np.isfinite(sums))
        if len(broken):
            commit()
            raise InputError(
                f"candidate {candidate}, anchor {distinct[broken[0]].id}: the model returned {sums[broken[0]]} instead "
                "of a log-probability; try dtype=float32, or remove this example from the pool"
            )
        rows.append(sums)
        report_cells(computed=len(anchors))
        if should_stop():
            commit()
            raise Interrupted(f"stopped on request; {stored} of {len(candidates)} candidates of this shard are stored")
        if time.monotonic() - last_commit > COMMIT_SECONDS:
            commit()
            last_commit = time.monotonic()
    commit()
    return len(candidates) * len(anchors)
