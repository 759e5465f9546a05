"""The core runs where neither Prefect nor s3fs is installed; a new cut, and commands without a flow, need no torch."""

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
import importlib, pkgutil, sys
import nuggets
for module in pkgutil.walk_packages(nuggets.__path__, "nuggets."):
    importlib.import_module(module.name)

sys.path.append({tests!r})
import job
from nuggets.config.configs import CurateConfig
from nuggets.runs.manifest import read_run
from nuggets.store.store import open_store

config = CurateConfig(
    pool={pool!r}, store={store!r}, model={model!r}, run="alone", anchors=3, shard_size=8, top_k=4
)
kept = job.curate(config).kept
counts = read_run(open_store(config.store), "alone").counts
raced = counts["rounds"] > 1 and counts["cells_computed"] < counts["cells"] == 60
print("raced" if raced else counts, "kept", kept)
"""

_NEW_CUT = """
from nuggets.scores.cuts import TopK
from nuggets.steps.publish import publish_selection
from nuggets.store.store import open_store
print("kept", publish_selection(open_store({store!r}), "alone", TopK(2)).kept)
"""


_COMMAND = """
import sys
from flows.cli.commands import app
try:
    app({arguments!r})
except SystemExit as ended:
    assert ended.code in (0, None), ended.code
print(sorted({{"prefect", "torch", "s3fs"}} & set(sys.modules)))
"""


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_whole_job_needs_no_prefect_and_no_s3fs_and_what_reads_its_store_no_torch(
    tmp_path: Path, pool_file: Path, tiny_model: Path
) -> None:
    store = str(tmp_path / "store")
    blocked = _WITHOUT.format(blocked={"prefect", "s3fs", "typer"})
    job = _WHOLE_JOB.format(tests=str(Path(__file__).parent), pool=str(pool_file), store=store, model=str(tiny_model))
    assert _run(blocked + job) == "raced kept 4"
    blocked = _WITHOUT.format(blocked={"prefect", "s3fs", "torch", "transformers", "sentence_transformers", "sklearn"})
    assert _run(blocked + _NEW_CUT.format(store=store)) == "kept 2"
    given = ["--store", store]
    for arguments in (
        ["--help"],
        ["curate", "--help"],
        ["runs", *given],
        ["show", "alone", *given],
        ["scores", "alone", *given, "--out", str(tmp_path / "scores.csv")],
    ):
        assert _run(_COMMAND.format(arguments=arguments)) == "[]", arguments
