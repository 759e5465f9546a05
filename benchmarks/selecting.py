"""Time and memory from stored cells to a published selection, and how both grow.

    python benchmarks/select.py --candidates 1000000 10000000 --json OUT

Synthetic cells in a store on the local disk: skill of a candidate times ease of an anchor, both beta-distributed. Each
step runs in a separate process, whose peak memory is read at its end:

    score       every cell read and verified, golden scores written
    select      the cut made, and the selection published: chosen examples with their texts, scores, report
    reselect    another cut on the same scores
    pandas      the same cells read whole into one frame, scored, ranked, cut, and written (no checksums, no texts)
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STEPS = ("score", "select", "reselect", "pandas")
RUN = "bench"
_SHARD = 8192
_PANDAS_BYTES = 20  # per cell: the frame, its copy in one block, and what comparing it makes


@dataclass(frozen=True)
class Size:
    """A table's size, and the folder of its store."""

    candidates: int
    anchors: int
    store: Path


def make_store(size: Size) -> None:
    """A finished run's pool, cells and baseline, as a scoring run would have left them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from nuggets.anchors.anchor_set import Anchor, AnchorSet, write_anchor_set
    from nuggets.anchors.baseline import Baseline, write_baseline
    from nuggets.cells.blocks import CellBlock, write_block
    from nuggets.cells.folders import cells_folder
    from nuggets.cells.prompt_notes import pool_notes_path, write_notes
    from nuggets.examples import Example, example_id
    from nuggets.pools.shards import Pool, pool_record_path
    from nuggets.runs.manifest import Run, RunState, save_run
    from nuggets.store.parquet import table_bytes
    from nuggets.store.records import write_record
    from nuggets.store.store import Store

    store, rng = Store(str(size.store)), np.random.default_rng(0)
    anchors = [Example(f"Ask {number}.", "", f"Answer {number}.") for number in range(size.anchors)]
    anchor_ids = [example_id(anchor) for anchor in anchors]
    zero_shot = rng.normal(-150, 50, size.anchors).astype(np.float32)
    ease = rng.beta(2, 2, size.anchors)
    key = _prepared(size).setup.key
    members = tuple(Anchor(key, None, item) for key, item in zip(anchor_ids, anchors, strict=True))
    write_anchor_set(store, "anchors/bench.json", AnchorSet(members))
    write_baseline(store, key, anchor_ids, Baseline(zero_shot, np.full(size.anchors, 100, dtype=np.int32)))
    digits = np.sort(rng.integers(0, 2**63, size.candidates, dtype=np.uint64) * np.uint64(2))
    rows = rng.permutation(size.candidates)
    shards, sizes = [], []
    for start in range(0, size.candidates, _SHARD):
        part = slice(start, min(start + _SHARD, size.candidates))
        count = part.stop - start
        tails = rng.integers(0, 2**63, count, dtype=np.uint64)
        ids = [f"{head:016x}{tail:016x}" for head, tail in zip(digits[part].tolist(), tails.tolist(), strict=True)]
        numbers = pa.array(rows[part]).cast(pa.string())
        texts = {
            "instruction": pc.binary_join_element_wise("Write something about number ", numbers, ""),
            "input": pa.array([""] * count),
            "output": pc.binary_join_element_wise(
                "This is about number ", numbers, "; it goes on for a while. " * 4, ""
            ),
        }
        quoted = ('{"instruction": "', texts["instruction"], '", "input": "", "output": "', texts["output"], '"}', "")
        original = {"original": pc.binary_join_element_wise(*quoted)}
        shards.append(f"pools/bench/shard-{len(shards):05d}.parquet")
        sizes.append(count)
        store.write(shards[-1], table_bytes({"example_id": ids, "row": rows[part], **texts, **original}))
        wins = rng.random((count, size.anchors)) < rng.beta(4, 4, (count, 1)) * ease
        gains = np.where(wins, 1, -1) * rng.gamma(2, 2, (count, size.anchors))
        values = (zero_shot + gains).astype(np.float32)
        write_block(store, cells_folder(key, [ids[0], ids[-1]]), CellBlock(tuple(ids), tuple(anchor_ids), values))
    pool = Pool("bench", "synthetic", size.candidates, size.candidates, 0, 0, {}, "", tuple(shards), tuple(sizes))
    write_record(store, pool_record_path("bench"), pool)
    write_notes(store, pool_notes_path(key, pool.id), [])
    identity = {"profile": "plain", "dtype": "float32"}
    inputs = {"pool": {"source": "synthetic"}, "model": {"name": "none: the cells are drawn at random"}}
    references = {"pool": "bench", "anchors": "anchors/bench.json", "scoring_key": key}
    save_run(store, Run(RUN, RunState.COMPLETE, "", "", {}, identity, inputs, references))


def run_step(step: str, size: Size, *, memory_mib: int) -> dict[str, float]:
    """One step in this process: its wall seconds, and the peak of this process's memory in MiB."""
    from nuggets.pools.shards import read_pool_record
    from nuggets.scores.cuts import TopFraction
    from nuggets.steps.publish import publish_selection
    from nuggets.steps.score_candidates import score_candidates
    from nuggets.store.store import Store

    before = time.perf_counter()
    if step == "score":
        score_candidates(_prepared(size), read_pool_record(Store(str(size.store)), "bench"), "anchors/bench.json")
    elif step == "pandas":
        _with_pandas(size)
    else:
        cut = TopFraction(0.05 if step == "select" else 0.01)
        publish_selection(Store(str(size.store)), RUN, cut, memory=memory_mib << 20)
    seconds = time.perf_counter() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 2), "peak_mib": round(peak)}


def _with_pandas(size: Size) -> None:
    import pandas as pd

    key = _prepared(size).setup.key
    frames = [pd.read_parquet(path) for path in sorted((size.store / "cells" / key).glob("*/*.parquet"))]
    table = pd.concat(frames, ignore_index=True).set_index("candidate_id")
    baseline = pd.read_parquet(next((size.store / "baselines" / key).glob("*.parquet"))).set_index("anchor_id")
    gains = table - baseline["zero_shot"]
    scores = pd.DataFrame({"score": (gains > 0).mean(axis=1), "gain": gains.mean(axis=1)}).reset_index()
    scores = scores.sort_values(["score", "gain", "candidate_id"], ascending=[False, False, True])
    scores["kept"] = [rank < math.ceil(len(scores) * 0.05) for rank in range(len(scores))]
    scores.to_parquet(size.store / "pandas.parquet")


def _prepared(size: Size) -> Any:
    from nuggets.models.files import ModelFiles
    from nuggets.models.prompts import TokenLimits
    from nuggets.models.scoring_setup import ScoringSetup
    from nuggets.runs.prepared import PreparedRun
    from nuggets.store.store import Store

    files = ModelFiles("none", "", None)
    setup = ScoringSetup(files, "bench", "plain", TokenLimits(512, 512), "float32", 1, False)
    return PreparedRun(name=RUN, store=Store(str(size.store)), setup=setup, pool_digest="bench")


def _in_child(size: Size, step: str, memory_mib: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, "--store", str(size.store), "--memory-mib", str(memory_mib)]
    command += ["--candidates", str(size.candidates), "--anchors", str(size.anchors)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"step {step} of {size.candidates} candidates failed: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(candidates: int, anchors: int, memory_mib: int) -> dict[str, Any]:
    """All steps for one size; prints a line for each."""
    with tempfile.TemporaryDirectory(prefix="nuggets-bench-") as folder:
        size = Size(candidates, anchors, Path(folder))
        _in_child(size, "make", memory_mib)
        objects = sum(1 for path in size.store.rglob("*.parquet"))
        stored = sum(path.stat().st_size for path in (size.store / "cells").rglob("*.parquet"))
        title = f"{candidates:,} candidates x {anchors} anchors"
        print(f"\n{title}: {stored / 2**20:,.0f} MiB of cells, {objects:,} objects", flush=True)
        steps = {}
        for step in STEPS:
            needed = candidates * anchors * _PANDAS_BYTES
            if step == "pandas" and needed > _available_bytes():
                print(f"  {step:<10} left out: it would need about {needed / 2**30:.0f} GiB")
                continue
            found = steps[step] = _in_child(size, step, memory_mib)
            print(f"  {step:<10} {found['seconds']:>8.1f} s   peak {found['peak_mib']:>6.0f} MiB", flush=True)
    return {"candidates": candidates, "anchors": anchors, "cells_bytes": stored, "objects": objects, "steps": steps}


def _available_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure, print, and write the JSON; or, as a child, run one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--anchors", type=int, default=100)
    parser.add_argument("--memory-mib", type=int, default=512, help="the setting memory_mib; default 512")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        size = Size(options.candidates[0], options.anchors, options.store)
        if options.step == "make":
            make_store(size)
            print("{}")
        else:
            print(json.dumps(run_step(options.step, size, memory_mib=options.memory_mib)))
        return
    sizes = [measure(count, options.anchors, options.memory_mib) for count in options.candidates]
    if options.json:
        made = {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "memory_mib": options.memory_mib}
        options.json.write_text(json.dumps(made | {"sizes": sizes}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
