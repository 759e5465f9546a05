"""The core runs where neither Prefect nor s3fs is installed, and a new cut needs no torch."""

import subprocess
import sys
from pathlib import Path

_WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Missing())
"""

_WHOLE_JOB = """
import importlib, pkgutil
import nuggets
for module in pkgutil.walk_packages(nuggets.__path__, "nuggets."):
    importlib.import_module(module.name)

from nuggets.steps.choose_anchors import find_anchors
from nuggets.steps.measure_baseline import measure_missing
from nuggets.config.configs import CurateConfig
from nuggets.scores.cuts import TopK
from nuggets.steps.embed_shard import embed_shard
from nuggets.steps.score_candidates import score_candidates
from nuggets.pools.ingest import ingest_pool
from nuggets.steps.prepare import prepare_run
from nuggets.steps.publish import publish_selection
from nuggets.pools.readers.detect import find_source
from nuggets.runs.manifest import RunState, record_state
from nuggets.steps.plan_round import plan_round
from nuggets.steps.score_cells import score_unit

config = CurateConfig(pool={pool!r}, store={store!r}, model={model!r}, run="alone", anchors=3)
prepared = prepare_run(config)
pool = ingest_pool(
    prepared.store, find_source(config.pool), prepared.pool_digest,
    shard_size=8, max_row_bytes=10_000, max_rejected_share=0.5,
)
anchors = find_anchors(prepared, config, pool, [embed_shard(prepared, shard) for shard in pool.shards])
measure_missing(prepared, anchors.path, 0, anchors.anchors)
computed = number = 0
while (plan := plan_round(prepared, pool, anchors.path, TopK(4), number=number)).units:
    computed += sum(score_unit(prepared, unit, anchors.path) for unit in plan.units)
    number += 1
score_candidates(prepared, pool, anchors.path)
record_state(prepared.store, prepared.name, RunState.COMPLETE, references={{"pool": pool.id}})
kept = publish_selection(prepared.store, prepared.name, TopK(4)).kept
print("whole table" if computed > 60 else "raced" if number > 1 else "at once", "kept", kept)
"""

_NEW_CUT = """
from nuggets.scores.cuts import TopK
from nuggets.steps.publish import publish_selection
from nuggets.store.store import open_store
print("kept", publish_selection(open_store({store!r}), "alone", TopK(2)).kept)
"""


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_core_does_the_whole_job_without_prefect_and_s3fs(
    tmp_path: Path, pool_file: Path, tiny_model: Path
) -> None:
    store = str(tmp_path / "store")
    blocked = _WITHOUT.format(blocked={"prefect", "s3fs", "typer"})
    job = _WHOLE_JOB.format(pool=str(pool_file), store=store, model=str(tiny_model))
    assert _run(blocked + job) == "raced kept 4"
    blocked = _WITHOUT.format(blocked={"prefect", "s3fs", "torch", "transformers", "sentence_transformers", "sklearn"})
    assert _run(blocked + _NEW_CUT.format(store=store)) == "kept 2"


def test_the_command_line_answers_without_importing_prefect_or_torch() -> None:
    code = "import sys, flows.cli.commands; print(sorted({'prefect', 'torch', 'pandas', 's3fs'} & set(sys.modules)))"
    assert _run(code) == "[]"
