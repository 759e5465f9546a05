"""make demo: curate a pool with planted defects, and print how well the golden score separates them from the rest.

Exits with code 1 if the score does not separate them: a broken score must not look like a finished demo.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from plant_defects import plant_defects
from sklearn.metrics import roc_auc_score

HERE = Path(__file__).parent
OUT = HERE.parent / ".demo"
STORE = OUT / "store"
SEED = 7
RUN = "demo"
# Sized for two CPU cores. The cost of a candidate is its own tokens plus the tokens of all anchors. Without racing,
# every candidate gets an exact score, which the table needs.
SETTINGS = ("--profile", "plain", "--anchors", "7", "--anchor-tokens", "64", "--shard-size", "50", "--racing", "off")
CUT = ("--top-fraction", "0.25")
LEAST_AUC = 0.6  # 0.5 is chance

Rows = list[tuple[str, object]]


def main() -> None:
    """Plant the defects, run the command that a user runs, print the table, and check the score."""
    started = time.monotonic()
    pool, labels = _prepare()
    _nuggets("curate", pool, "--store", STORE, "--run", RUN, *CUT, *SETTINGS)
    run = json.loads(_nuggets("show", RUN, "--store", STORE, "--json", captured=True))
    newest = max(run["selections"], key=lambda selection: selection["created_at"])
    folder = Path(newest["address"])
    scores = pd.read_parquet(folder / "scores.parquet")
    auc = float(roc_auc_score(~_damaged(scores, labels), scores["golden_score"]))
    rows = [*_run_rows(run["counts"], seconds=time.monotonic() - started), *_score_rows(scores, labels, auc=auc)]
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    print(f"\nreport: {folder / 'report.md'}")
    if auc <= LEAST_AUC:
        sys.exit(f"error: AUC {auc:.2f} is not above {LEAST_AUC}: the score does not separate sound from damaged rows")


def _prepare() -> tuple[Path, dict[int, str]]:
    """The pool file with planted defects, and the kind of damage by row."""
    examples = [json.loads(line) for line in (HERE / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    rows, labels = plant_defects(examples, seed=SEED)
    OUT.mkdir(exist_ok=True)
    pool = OUT / "pool.jsonl"
    pool.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (OUT / "labels.json").write_text(json.dumps(labels, indent=1), encoding="utf-8")
    print(f"{pool}: {len(rows)} examples, {len(labels)} of them damaged; nuggets does not see which", flush=True)
    return pool, labels


def _nuggets(*arguments: object, captured: bool = False) -> str:
    """Run a nuggets command, and exit with its code if it fails; returns what it printed if `captured`."""
    program = Path(sys.executable).with_name("nuggets")
    done = subprocess.run([program, *map(str, arguments)], stdout=subprocess.PIPE if captured else None, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def _run_rows(counts: dict[str, int], *, seconds: float) -> Rows:
    return [
        ("anchors", counts["anchors"]),
        (
            "cells",
            f"{counts['cells']} ({counts['cells_computed']} computed, {counts['cells_found']} stored before)",
        ),
        ("seconds", f"{seconds:.0f}"),
    ]


def _score_rows(scores: pd.DataFrame, labels: dict[int, str], *, auc: float) -> Rows:
    damaged, kept = _damaged(scores, labels), scores["kept"]
    quantiles = scores["golden_score"].quantile([0, 0.25, 0.5, 0.75, 1])
    names = ("min", "25 %", "median", "75 %", "max")
    by_kind = scores[damaged].groupby(scores["candidate_row"].map(labels))["golden_score"].mean()
    return [
        ("golden score", "  ".join(f"{name} {value:.2f}" for name, value in zip(names, quantiles, strict=True))),
        ("damaged among kept", _share(damaged[kept])),
        ("damaged among dropped", _share(damaged[~kept])),
        ("AUC, sound above damaged", f"{auc:.2f} (chance is 0.5)"),
        ("mean score, sound", f"{scores.loc[~damaged, 'golden_score'].mean():.2f}"),
        *((f"mean score, {kind.replace('_', ' ')}", f"{value:.2f}") for kind, value in by_kind.items()),
    ]


def _damaged(scores: pd.DataFrame, labels: dict[int, str]) -> "pd.Series[bool]":
    return scores["candidate_row"].isin(labels.keys())


def _share(damaged: "pd.Series[bool]") -> str:
    return f"{int(damaged.sum())} of {len(damaged)} ({100 * damaged.mean():.0f} %)"


if __name__ == "__main__":
    main()
