"""make demo: curate a pool with planted defects, and show whether the golden score found them."""

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
SEED = 7
RUN = "demo"
# Sized for two CPU cores: a candidate costs as many tokens as its own demonstration and all anchors have together.
SETTINGS = ("--profile", "plain", "--anchors", "10", "--anchor-tokens", "64", "--shard-size", "50")
CUT = 0.25


def main() -> None:
    """Plant the defects, run the main job as a user would, and print what came of it."""
    started = time.monotonic()
    pool, labels = _prepare()
    print(f"demo pool: {pool}, {len(labels)} of its rows are damaged; the flow does not know which", flush=True)
    nuggets, store = str(Path(sys.executable).with_name("nuggets")), str(OUT / "store")
    command = [nuggets, "curate", str(pool), "--store", store, "--run", RUN, "--top-fraction", str(CUT), *SETTINGS]
    _run(command)
    raced = _counts()
    print("\nthe cut is certain; the table below wants every score, so the cells that the race left out:", flush=True)
    _run([*command, "--racing", "off"])
    folder = _newest_selection(nuggets, store)
    print(summary(folder, labels, raced, seconds=time.monotonic() - started))
    print(f"\nresults: {folder}")
    print(f"         {folder / 'report.md'}")


def summary(folder: Path, labels: dict[int, str], raced: dict[str, int], *, seconds: float) -> str:
    """The table that the demo ends with."""
    scores = pd.read_parquet(folder / "scores.parquet")
    selection = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    counts = _counts()
    needed = raced["cells_found"] + raced["cells_computed"]
    damaged = scores["candidate_row"].isin(labels.keys())
    kept = scores["kept"]
    quantiles = scores["golden_score"].quantile([0, 0.25, 0.5, 0.75, 1])
    auc = roc_auc_score(~damaged, scores["golden_score"])
    rows = [
        ("pool", f"{counts['examples']} examples, {int(damaged.sum())} of them damaged"),
        ("anchors", counts["anchors"]),
        (
            "cells for the cut",
            f"{needed} of {counts['cells']} ({raced['cells_computed']} computed, {raced['cells_found']} found)",
        ),
        ("cells for every score", f"{counts['cells_computed']} more computed, {counts['cells_found']} found"),
        ("seconds", f"{seconds:.0f}"),
        ("golden score", "  ".join(f"{name} {value:.2f}" for name, value in zip(QUANTILES, quantiles, strict=True))),
        ("kept", f"{int(kept.sum())} ({selection['cut']['meaning']})"),
        ("damaged among kept", _share(damaged[kept])),
        ("damaged among dropped", _share(damaged[~kept])),
        ("AUC, sound above damaged", f"{auc:.2f} (0.5 would be chance)"),
    ]
    by_kind = scores[damaged].groupby(scores["candidate_row"].map(labels))["golden_score"].mean()
    rows += [(f"mean score, {kind.replace('_', ' ')}", f"{value:.2f}") for kind, value in by_kind.items()]
    rows.append(("mean score, sound", f"{scores.loc[~damaged, 'golden_score'].mean():.2f}"))
    width = max(len(name) for name, _ in rows)
    return "\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


QUANTILES = ("least", "25 %", "median", "75 %", "most")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _newest_selection(nuggets: str, store: str) -> Path:
    """The folder of the selection that the run has published last."""
    shown = subprocess.run([nuggets, "show", RUN, "--store", store, "--json"], check=True, capture_output=True)
    return Path(json.loads(shown.stdout)["selections"][-1]["address"])


def _counts() -> dict[str, int]:
    """What the run's manifest says of its last attempt."""
    manifest = json.loads((OUT / "store" / "runs" / RUN / "manifest.json").read_text(encoding="utf-8"))
    return dict(manifest["counts"])


def _prepare() -> tuple[Path, dict[int, str]]:
    examples = [json.loads(line) for line in (HERE / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    rows, labels = plant_defects(examples, seed=SEED)
    OUT.mkdir(exist_ok=True)
    pool = OUT / "pool.jsonl"
    pool.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (OUT / "labels.json").write_text(json.dumps(labels, indent=1), encoding="utf-8")
    return pool, labels


def _share(damaged: "pd.Series[bool]") -> str:
    return f"{int(damaged.sum())} of {len(damaged)} ({100 * damaged.mean():.0f} %)"


if __name__ == "__main__":
    main()
