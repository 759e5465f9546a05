"""What orchestration costs: seconds of a run in which no device computes, for few and many shards, on each executor.

    python benchmarks/orchestration.py --json OUT
    python benchmarks/orchestration.py --starting --json OUT     # a whole small run instead, see starting.py

Every run is the real command with a real (tiny, random) model against one Prefect server: shards of four candidates,
eight anchors, no racing, so that almost all of it is not the engine. What the engine takes is noted in every process
and subtracted; where several work at once, that of the one that worked longest. Executors take turns, in another order
each round, so that other load on the machine affects them equally.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from machine import describe_machine, describe_versions  # noqa: E402
from noted import noted_rows, noting_environment  # noqa: E402
from starting import KINDS, Start, measure_starts, start_table  # noqa: E402

CANDIDATES = 4  # per shard
ANCHORS = 8
EXECUTORS = {  # the options of each, and how many shards are scored at once
    "this process": ([], 1),
    "a process": (["--workers", "1"], 1),
    "2 processes": (["--workers", "2"], 2),
    "dask, 2": (["--executor", "dask", "--workers", "2"], 2),
    "ray, 2": (["--executor", "ray", "--workers", "2"], 2),
}
SHARD_SECONDS = 60  # of the engine, in the run that the share is given for
SHARE = 0.02


@dataclass(frozen=True)
class Timing:
    """A run: seconds in all, of the engine, and of the stages."""

    executor: str
    shards: int
    wall: float
    computing: float  # of the process that computed longest
    stages: dict[str, float]

    @property
    def rest(self) -> float:
        """Seconds in which nothing was computed."""
        return self.wall - self.computing


def measure(executor: str, shards: int, *, model: Path, folder: Path) -> Timing:
    """One run in an empty store. Ends the program with the run's output if it fails."""
    pool, anchors, notes = folder / "pool.jsonl", folder / "anchors.json", folder / "rows"
    write_examples(folder, candidates=shards * CANDIDATES)
    command = [str(Path(sys.executable).with_name("nuggets")), "curate", str(pool), "--anchor-file", str(anchors)]
    command += ["--model", str(model), "--store", str(folder / "store"), "--run", "r", "--shard-size", str(CANDIDATES)]
    command += ["--racing", "off", "--top-k", "1", "--dtype", "float32", *EXECUTORS[executor][0]]
    start = time.monotonic()
    done = subprocess.run(command, env=noting_environment(notes), capture_output=True, text=True)
    wall = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"{executor}, {shards} shards: {done.stdout}{done.stderr}")
    computing: Counter[int] = Counter()
    for row in noted_rows(notes):
        computing[row.process] += row.seconds  # type: ignore[assignment]
    manifest = json.loads((folder / "store/runs/r/manifest.json").read_text())
    if manifest["counts"]["cells_computed"] != shards * CANDIDATES * ANCHORS:
        raise SystemExit(f"{executor}, {shards} shards: {manifest['counts']}")
    return Timing(executor, shards, wall, max(computing.values()), manifest["seconds"])


def write_examples(folder: Path, *, candidates: int) -> None:
    """Write pool.jsonl and anchors.json."""
    Path(folder, "pool.jsonl").write_text("".join(json.dumps(_example(number)) + "\n" for number in range(candidates)))
    Path(folder, "anchors.json").write_text(json.dumps([_example(-number - 1) for number in range(ANCHORS)]))


def _example(number: int) -> dict[str, str]:
    return {"instruction": f"Write the number {number} in words.", "input": "", "output": f"It is {number}, in words."}


@dataclass(frozen=True)
class Cost:
    """The price of an executor: a run of one shard, and each further shard; seconds, median (smallest to largest)."""

    executor: str
    seconds: dict[int, tuple[float, float, float]]  # by number of shards
    each: tuple[float, float, float]  # a further shard between the two largest numbers

    def shards_for(self, share: float) -> int | None:
        """From how many shards of a minute on the rest is at most this share of a run; None for never."""
        fixed = self.seconds[min(self.seconds)][0]
        spare = share * SHARD_SECONDS / EXECUTORS[self.executor][1] - self.each[0]
        return None if spare <= 0 else max(1, -int(-fixed // spare))


def costs(timings: Sequence[Timing]) -> list[Cost]:
    """The price of each executor that was measured."""
    found = []
    for executor in dict.fromkeys(item.executor for item in timings):
        mine = [item for item in timings if item.executor == executor]
        numbers = sorted({item.shards for item in mine})
        rests = {number: [item.rest for item in mine if item.shards == number] for number in numbers}
        few, many = numbers[-2:] if len(numbers) > 1 else (numbers[0], numbers[0])
        each = [(b - a) / max(1, many - few) for a, b in zip(rests[few], rests[many], strict=True)]
        found.append(Cost(executor, {number: _spread(values) for number, values in rests.items()}, _spread(each)))
    return found


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)


def table(found: Sequence[Cost]) -> str:
    """The prices as Markdown."""
    numbers = list(found[0].seconds)
    heads = [f"{number} shards, s" if number > 1 else "1 shard, s" for number in numbers]
    head = ["executor", *heads, "a further shard, s", f"at most {SHARE:.0%} from"]
    lines = [head, ["---"] * len(head)]
    for cost in found:
        enough = cost.shards_for(SHARE)
        lines.append(
            [
                cost.executor,
                *(f"{middle:.1f} ({low:.1f} to {high:.1f})" for middle, low, high in cost.seconds.values()),
                "{:.3f} ({:.3f} to {:.3f})".format(*cost.each),
                "never" if enough is None else f"{enough} shards of a minute",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tiny_model(folder: Path) -> Path:
    """A small random Llama with a tokenizer of bytes: it loads as any does, and what it computes does not matter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(letters), max_position_embeddings=1024, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="1,10,100", help="numbers of shards (default: %(default)s)")
    parser.add_argument(
        "--executors", default=", ".join(re.sub(", ", "/", name) for name in EXECUTORS), help="some of these"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starting", action="store_true", help="measure a whole run of 8 rows")
    parser.add_argument("--kinds", default="; ".join(KINDS), help="with --starting: some of these")
    parser.add_argument("--beside", type=Path, help="with --starting: another checkout to measure in turn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    numbers = [int(number) for number in options.shards.split(",")]
    executors = [name.strip().replace("/", ", ") for name in options.executors.split(",")]
    if options.starting:
        kinds = [kind.strip() for kind in options.kinds.split(";")]
        _write(options.json, starts=[asdict(item) for item in starts(options.beside, kinds, rounds=options.rounds)])
        return
    if unknown := [name for name in executors if name not in EXECUTORS]:
        parser.error(f"unknown executor {unknown[0]}")
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"PREFECT_HOME": f"{place}/prefect", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"

        from prefect.settings import PREFECT_API_URL

        from flows.cli.local_server import prefect_api

        model = tiny_model(Path(place) / "model")
        with prefect_api():
            os.environ["PREFECT_API_URL"] = PREFECT_API_URL.value() or ""
            for number in range(options.rounds):
                turns = executors[number % len(executors) :] + executors[: number % len(executors)]
                for executor in turns:
                    for shards in numbers:
                        with tempfile.TemporaryDirectory(dir=place) as folder:
                            timings.append(measure(executor, shards, model=model, folder=Path(folder)))
                        print(
                            f"{executor}, {shards} shards: {timings[-1].rest:.1f} s of {timings[-1].wall:.1f} s",
                            flush=True,
                        )
            del os.environ["PREFECT_API_URL"]
    print(f"\nseconds without the engine, median of {options.rounds} (smallest to largest)\n\n{table(costs(timings))}")
    _write(options.json, timings=[asdict(item) for item in timings], costs=[asdict(item) for item in costs(timings)])


def starts(beside: Path | None, kinds: Sequence[str], *, rounds: int) -> list[Start]:
    """Whole runs of 8 rows by this checkout, and by another one if there is one; prints each, and all as a table."""
    checkouts = {"this": ROOT} | ({"other": beside.resolve()} if beside else {})
    made: list[Start] = []
    with tempfile.TemporaryDirectory() as inputs:
        write_examples(Path(inputs), candidates=8)
        tiny_model(Path(inputs) / "model")
        for start in measure_starts(checkouts, Path(inputs), kinds=kinds, rounds=rounds):
            made.append(start)
            seconds = f"{start.wall:.1f} s, {start.processor:.1f} s of processors"
            print(f"{start.checkout} checkout, {start.kind}: {seconds}", flush=True)
    print(f"\nmedian of {rounds} (smallest to largest)\n\n{start_table(made)}")
    return made


def _write(file: Path | None, **results: list[dict[str, object]]) -> None:
    """Write results to a file, with the machine and the versions that they were measured on."""
    if file:
        where = {"machine": describe_machine(torch.device("cpu")), "versions": describe_versions()}
        file.write_text(json.dumps(where | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
