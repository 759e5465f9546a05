"""Seconds to plan a round of a race, with the table of cells kept in memory and with all cells read from the store.

    python benchmarks/planning.py --candidates 52002 1000000 --json OUT

A race for the best 5 % on synthetic cells in a store on the local disk: skill of a candidate times ease of an anchor.
Between two rounds the chosen cells are stored as blocks, which is not timed. Both ways have to choose the same cells.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs where nuggets is not installed

from machine import describe_machine

from nuggets.anchors.anchor_set import Anchor, AnchorSet, write_anchor_set
from nuggets.anchors.baseline import Baseline, write_baseline
from nuggets.cells.blocks import CellBlock, write_block
from nuggets.cells.folders import cells_folder
from nuggets.config.configs import SHARD_SIZE
from nuggets.examples import Example, example_id
from nuggets.pools.shards import Pool
from nuggets.racing.next_round import CellsToCompute, ShardGains, next_round
from nuggets.scores.cuts import TopFraction
from nuggets.steps.run_cells import RunCells, read_run_cells
from nuggets.store.parquet import table_bytes
from nuggets.store.store import Store

KEY = "planning"
_MEMORY = 512 << 20  # the default of memory_mib
_MIN_CELLS = 4
_TASK_CELLS = SHARD_SIZE * 100


@dataclass(frozen=True)
class Round:
    """Seconds to plan a round in both ways, and the cells known before it; `swept` is None where it was left out."""

    known: int
    requested: int
    kept: float
    swept: float | None


class Race:
    """A store with a pool, anchors and a baseline, and cells that are drawn when a round asks for them."""

    def __init__(self, folder: str, candidates: int, anchors: int) -> None:
        self.store, self.size = Store(folder), (candidates, anchors)
        rng = np.random.default_rng(0)
        self.zero_shot = rng.normal(-150, 50, anchors).astype(np.float32)
        self.ease = rng.beta(2, 2, anchors)
        examples = [Example(f"Ask {number}.", "", f"Answer {number}.") for number in range(anchors)]
        self.anchor_ids = tuple(map(example_id, examples))
        members = [Anchor(key, None, item) for key, item in zip(self.anchor_ids, examples, strict=True)]
        write_anchor_set(self.store, "anchors/planning.json", AnchorSet(tuple(members)))
        write_baseline(
            self.store, KEY, self.anchor_ids, Baseline(self.zero_shot, np.full(anchors, 100, dtype=np.int32))
        )
        self.pool = self._pool(rng, candidates)

    def _pool(self, rng: np.random.Generator, candidates: int) -> Pool:
        heads = np.sort(rng.integers(0, 2**63, candidates, dtype=np.uint64) * np.uint64(2))
        shards, sizes = [], []
        for start in range(0, candidates, SHARD_SIZE):
            ids = [f"{head:016x}{start:016x}" for head in heads[start : start + SHARD_SIZE].tolist()]
            shards.append(f"pools/planning/shard-{len(shards):05d}.parquet")
            sizes.append(len(ids))
            self.store.write(shards[-1], table_bytes({"example_id": ids, "row": np.arange(start, start + len(ids))}))
        return Pool("planning", "", candidates, candidates, 0, 0, {}, "", tuple(shards), tuple(sizes))

    def cells_of(self, shard: int) -> NDArray[np.float32]:
        """All cells of a shard: the same at every call."""
        rng, size = np.random.default_rng([1, shard]), self.pool.shard_examples[shard]
        wins = rng.random((size, len(self.ease))) < rng.beta(4, 4, (size, 1)) * self.ease
        gains = np.where(wins, 1, -1) * rng.gamma(2, 2, wins.shape)
        return (self.zero_shot + gains).astype(np.float32)

    def open(self, memory: int) -> RunCells:
        """The cells, kept in memory if they fit."""
        return read_run_cells(self.store, KEY, self.pool, "anchors/planning.json", memory=memory)

    def store_cells(self, choices: list[CellsToCompute]) -> None:
        """Store what a round asks for, as blocks of about a task each."""
        ids: list[str] = []
        rows: list[NDArray[np.float32]] = []
        cells = 0
        for choice in choices:
            wanted = np.flatnonzero(choice.cells.any(axis=1))
            values = np.where(choice.cells, self.cells_of(choice.shard.index), np.float32(np.nan))
            ids += choice.shard.candidate_ids.take(wanted).to_pylist()
            rows.append(values[wanted])
            cells += int(choice.cells.sum())
            if cells >= _TASK_CELLS or choice is choices[-1]:
                block = CellBlock(tuple(ids), self.anchor_ids, np.concatenate(rows))
                write_block(self.store, cells_folder(KEY, ids), block)
                ids, rows, cells = [], [], 0


def plan(cells: RunCells, number: int) -> tuple[int, list[CellsToCompute]]:
    """Known cells and the choices of a round, as planning makes them."""
    cells.table.refresh()

    def gains() -> Iterator[ShardGains]:
        for shard in cells.shards():
            yield ShardGains(shard.cells.index, shard.cells.candidate_ids, shard.gains, shard.eligible)

    tokens = np.random.default_rng(0).lognormal(np.log(130), 0.6, len(cells.anchors))
    found = next_round(gains, TopFraction(0.05), tokens, min_cells=_MIN_CELLS, round_number=number)
    return found.known, list(found.choices)


def measure(candidates: int, anchors: int, *, every: int) -> dict[str, Any]:
    """A race to its end; cells are also read from the store in every `every`-th round."""
    with tempfile.TemporaryDirectory(prefix="nuggets-bench-") as folder:
        race = Race(folder, candidates, anchors)
        kept, swept = race.open(_MEMORY), race.open(0)
        before = _peak_mib()
        print(f"\n{candidates:,} candidates x {anchors} anchors", flush=True)
        print(f"{'round':>5} {'known':>12} {'requested':>12} {'kept, s':>9} {'swept, s':>9}")
        rounds: list[Round] = []
        while True:
            seconds, (known, choices) = _timed(lambda: plan(kept, len(rounds)))
            peak = _peak_mib()
            again = None
            if len(rounds) % every == 0 or not choices:
                again, (_, same) = _timed(lambda: plan(swept, len(rounds)))
                if [item.cells.tobytes() for item in same] != [item.cells.tobytes() for item in choices]:
                    sys.exit("the kept table and a fresh reading choose different cells")
            rounds.append(Round(known, sum(int(item.cells.sum()) for item in choices), seconds, again))
            last = f"{again:9.2f}" if again is not None else f"{'-':>9}"
            print(f"{len(rounds):5} {known:12,} {rounds[-1].requested:12,} {seconds:9.2f} {last}", flush=True)
            if not choices:
                break
            race.store_cells(choices)
    means = {
        "kept": float(np.mean([item.kept for item in rounds])),
        "swept": float(np.mean([item.swept for item in rounds if item.swept is not None])),
    }
    table_mib = candidates * (4 * anchors + 48) / 2**20
    print(f"mean seconds per round: kept {means['kept']:.2f}, swept {means['swept']:.2f}")
    print(f"table {table_mib:.0f} MiB; peak of the process {before:.0f} MiB before, {peak:.0f} MiB after")
    return {
        "candidates": candidates,
        "anchors": anchors,
        "mean_seconds": means,
        "table_mib": round(table_mib, 1),
        "peak_mib": [before, peak],
        "rounds": [asdict(item) for item in rounds],
    }


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return round(time.perf_counter() - started, 3), result


def _peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[52_002, 1_000_000])
    parser.add_argument("--anchors", type=int, default=100)
    parser.add_argument("--every", type=int, default=4, metavar="N", help="read the store anew in every N-th round (4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args()
    record = {"machine": describe_machine(torch.device("cpu")), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    sizes = [measure(count, options.anchors, every=options.every) for count in options.candidates]
    if options.json:
        options.json.write_text(json.dumps(record | {"sizes": sizes}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
