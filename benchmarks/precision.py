"""What 16 bits change: the same cells from the same weights in float32 and in bfloat16 or float16.

    python benchmarks/precision.py --candidates 20 --json FILE
    python benchmarks/precision.py --formats bfloat16 --other-budget 300 --json FILE

Both are scored by the engine. A win flips where a cell's rounding is larger than its distance from the baseline.
With --other-budget, formats are compared not with float32 but with themselves, in packs of another size: as another
device, another round of a race or memory that ran out would have put them together.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs where nuggets is not installed

from machine import describe_machine, describe_versions
from texts import load_named_model, read_workload
from workload import Workload

from nuggets.engine.choose import open_engine
from nuggets.models.files import find_language_model

UNITS = {
    "largest_difference": "nats between a sum and that of float32, or that in packs of another size",
    "median_difference": "the same, absolute, median over cells",
    "median_difference_per_token": "nats per response token, absolute, median over cells",
    "wins_that_flip": "cells on the other side of the baseline than in what is compared with",
    "margins_of_flips": "nats between cell and baseline in what is compared with, where wins flip",
    "largest_golden_score_difference": "of a candidate, 0 to 1",
    "rank_correlation": "Spearman, of the candidates' golden scores with those compared with, ties averaged",
}


def main() -> None:
    """Score in every number format, compare with float32, print, and write the JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10, metavar="N", help="candidates (10)")
    parser.add_argument("--anchor-count", type=int, default=20, metavar="N", help="anchors, over their lengths (20)")
    parser.add_argument("--formats", nargs="+", default=["bfloat16"], help="number formats to try (bfloat16)")
    parser.add_argument(
        "--other-budget", type=int, metavar="N", help="compare with packs of N tokens instead of with float32"
    )
    parser.add_argument("--model", metavar="MODEL", help="a folder, a .gguf file or a hub id (SmolLM2-135M)")
    parser.add_argument("--pool", metavar="FILE", help="candidates: any pool that nuggets reads")
    parser.add_argument("--anchors", metavar="FILE", help="anchors: any pool that nuggets reads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    files = find_language_model(args.model)
    model = load_named_model(files, dtype=torch.float32, device=device)
    workload = read_workload(
        files,
        model.config.get_text_config().max_position_embeddings,
        pool=args.pool,
        anchors=args.anchors,
        anchor_count=args.anchor_count,
    )
    about = {
        "model": files.name,
        "machine": describe_machine(device),
        "versions": describe_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": workload.source,
        "cells": args.candidates * len(workload.anchors),
    }
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    record: dict[str, Any] = {**about, "units": UNITS}
    if args.other_budget:
        record["other_budget"] = args.other_budget
    else:
        exact, _ = _sums(model, workload, args.candidates)
    tokens = np.array([item.response_tokens for item in workload.anchors])
    for name in args.formats:
        # Of the float32 weights, rounded: as a model loaded in this format.
        found, budget = _sums(model.to(getattr(torch, name)), workload, args.candidates)
        against = "float32"
        if args.other_budget:
            exact, _ = _sums(model, workload, args.candidates, token_budget=args.other_budget)
            against = f"itself, {args.other_budget} tokens per forward pass instead of {budget}"
        record[name] = {"token_budget": budget, **_compare(found, exact, tokens)}
        model = load_named_model(files, dtype=torch.float32, device=device)
        print(f"\n{name} against {against}\n" + "\n".join(f"  {key}: {value}" for key, value in record[name].items()))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _sums(
    model: Any, workload: Workload, candidates: int, *, token_budget: int | None = None
) -> tuple[NDArray[np.float64], int]:
    """The baseline, which profile `released` measures without anything in front, candidates below it; the budget."""
    engine: Any = open_engine(model, token_budget=token_budget)
    rows = engine.log_prob_sums([(), *workload.candidates[:candidates]], workload.anchors)
    return np.array(list(rows)), engine.token_budget


def _compare(
    found: NDArray[np.float64], exact: NDArray[np.float64], response_tokens: NDArray[np.int64]
) -> dict[str, object]:
    gain, exact_gain = found[1:] - found[0], exact[1:] - exact[0]
    flipped = (gain > 0) != (exact_gain > 0)
    scores, exact_scores = (gain > 0).mean(axis=1), (exact_gain > 0).mean(axis=1)
    return {
        "largest_difference": float(np.abs(found - exact).max()),
        "median_difference": float(np.median(np.abs(found - exact))),
        "median_difference_per_token": float(np.median(np.abs(found - exact) / response_tokens)),
        "wins_that_flip": int(flipped.sum()),
        "margins_of_flips": sorted(np.abs(exact_gain[flipped]).round(3).tolist()),
        "largest_golden_score_difference": float(np.abs(scores - exact_scores).max()),
        "rank_correlation": float(np.corrcoef(_ranks(scores), _ranks(exact_scores))[0, 1]),
    }


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    distinct, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


if __name__ == "__main__":
    main()
