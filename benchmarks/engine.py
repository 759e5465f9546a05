"""The scoring engine against three other ways to compute the same cells, on the same weights, in the same run.

    python benchmarks/engine.py --quick                 under two minutes on two cores
    python benchmarks/engine.py --json FILE             the packaged SmolLM2-135M on the paper's texts or the demo's
    python benchmarks/engine.py --shape llama-7b        random weights, for a GPU; needs no tokenizer and no files

The algorithms take turns round by round, each round on other candidates. Figures are medians over the rounds.
"""

import argparse
import json
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs where nuggets is not installed

from comparison import compare
from contestants import all_contestants, as_it_was_released, dtype_name
from machine import describe_machine, describe_versions
from results import UNITS
from workload import Workload

from nuggets.errors import NuggetsError

QUICK_SECONDS = 105.0  # from the start: no round is begun that would probably end later


def main() -> None:
    """Measure, print, and write the JSON if asked to."""
    started = time.monotonic()
    args = _parse()
    if args.write_lengths:
        from texts import write_anchor_lengths

        return write_anchor_lengths(Path(__file__).with_name("anchor_lengths.json"))
    logging.basicConfig(level=logging.WARNING)  # the engine warns if it uses the plain path
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(args.threads or torch.get_num_threads())
    threads = torch.get_num_threads()
    dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    model, name, workloads = (_shape if args.shape else _texts)(args, dtype, device)
    about = {
        "model": name,
        "dtype": dtype_name(dtype),
        "attention_of_rivals": model.config._attn_implementation,
        "machine": describe_machine(device),
        "versions": describe_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    contestants = all_contestants(model)
    if args.shape and device.type == "cuda":
        contestants.append(as_it_was_released(model))
    options = {"candidates": args.candidates, "rounds": args.rounds, "threads": threads}
    records = []
    for index, workload in enumerate(workloads):
        deadline = started + QUICK_SECONDS * (index + 1) / len(workloads) if args.quick else None
        records.append(compare(contestants, workload, **options, deadline=deadline))
    if args.json:
        _write(args.json, {**records[0], **about, "units": UNITS, "further_workloads": records[1:]})
    return None


def _write(path: Path, record: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


def _shape(args: argparse.Namespace, dtype: torch.dtype, device: torch.device) -> tuple[Any, str, list[Workload]]:
    from shapes import random_model, random_workloads

    model = random_model(args.shape, dtype=dtype, device=device)
    candidates = args.candidates * args.rounds
    workloads = random_workloads(
        args.shape, args.demonstration_tokens, candidates=candidates, anchor_count=args.anchor_count
    )
    return model, f"{args.shape}, random weights", workloads


def _texts(args: argparse.Namespace, dtype: torch.dtype, device: torch.device) -> tuple[Any, str, list[Workload]]:
    from texts import load_named_model, read_workload

    from nuggets.models.files import find_language_model

    files = find_language_model(args.model)
    model = load_named_model(files, dtype=dtype, device=device)
    context = model.config.get_text_config().max_position_embeddings
    workload = read_workload(files, context, pool=args.pool, anchors=args.anchors, anchor_count=args.anchor_count)
    return model, files.name, [workload]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="few anchors, and rounds for about a minute")
    add("--json", type=Path, metavar="FILE", help="write what was measured there")
    add("--pool", metavar="FILE", help="candidates: any pool that nuggets reads")
    add("--anchors", metavar="FILE", help="anchors: any pool that nuggets reads")
    add("--anchor-count", type=_positive, metavar="N", help="anchors, short and long (20; quick 6; with --shape 100)")
    add("--candidates", type=_positive, metavar="N", help="candidates in each round (3; quick 2)")
    add("--rounds", type=_positive, default=5, metavar="N", help="rounds at most (5)")
    add("--model", metavar="MODEL", help="a folder, a .gguf file or a hub id (the packaged SmolLM2-135M)")
    add(
        "--shape",
        choices=("llama-7b", "smollm2-135m", "small", "tiny"),
        help="random weights of this shape, and random ids",
    )
    add("--demonstration-tokens", type=_positive, nargs="+", default=[45, 300], metavar="N", help="by --shape (45 300)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="number format (bfloat16 on a GPU, else float32)")
    add("--threads", type=_positive, metavar="N", help="CPU threads of every algorithm (as many as torch takes)")
    add("--write-lengths", action="store_true", help="only write anchor_lengths.json anew, from the paper's anchors")
    args = parser.parse_args()
    args.candidates = args.candidates or (2 if args.quick else 3)
    args.anchor_count = args.anchor_count or (100 if args.shape else 6 if args.quick else 20)
    return args


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    try:
        main()
    except NuggetsError as error:
        sys.exit(f"error: {error}")
