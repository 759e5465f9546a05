"""The plan of a scoring round: which cells a run needs, which the store holds, and what each task has to compute."""

from collections.abc import Sequence
from dataclasses import dataclass

from nuggets.anchors import read_anchors
from nuggets.cells import read_cells
from nuggets.pool import Pool, read_ids
from nuggets.progress import report_cells, report_stage
from nuggets.runs import run_folder
from nuggets.store import open_store
from nuggets.worklist import missing_batches, write_worklist


@dataclass(frozen=True, slots=True)
class ShardWork:
    """One scoring task: the shard with its candidates' texts, and the list of what is missing there."""

    index: int
    shard: str
    worklist: str
    cells: int


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """Cells needed by the run, found in the store, and the work that remains."""

    needed: int
    found: int
    work: tuple[ShardWork, ...]


def plan_scoring(store_url: str, run: str, key: str, pool: Pool, anchors_path: str) -> ScoringPlan:
    """Compare what the run needs with what is stored, and leave a work list for every shard that lacks cells."""
    store = open_store(store_url)
    anchor_ids = [anchor.id for anchor in read_anchors(store, anchors_path)]
    ids, _ = read_ids(store, pool.shards)
    cells = read_cells(store, key, ids, anchor_ids)
    work: list[ShardWork] = []
    start = 0
    for index, (shard, size) in enumerate(zip(pool.shards, pool.shard_examples, strict=True)):
        part = slice(start, start + size)
        start += size
        batches = missing_batches(ids[part], cells[part])
        if batches:
            path = f"{run_folder(run)}/worklists/shard-{index:05d}.json"
            write_worklist(store, path, batches)
            work.append(ShardWork(index, shard, path, sum(batch.cells for batch in batches)))
    missing = sum(item.cells for item in work)
    plan = ScoringPlan(cells.size, cells.size - missing, tuple(work))
    report_stage(f"cells: {plan.needed} needed, {plan.found} found, {missing} to compute")
    report_cells(to_compute=missing)
    return plan


def planned_cells(work: Sequence[ShardWork]) -> int:
    """Cells that the work computes."""
    return sum(item.cells for item in work)
