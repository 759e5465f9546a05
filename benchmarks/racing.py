"""How many cells a race computes on tables of known cells, and whether its answer is that of the full table.

    python benchmarks/racing.py --json benchmarks/results/racing.json                 the whole programme
    python benchmarks/racing.py --table FILE --top-fraction 0.05 --json FILE          one table, one cut

A table is Parquet (or CSV) with the columns candidate_row, anchor_row, zero_shot and one_shot, sums in nats, one row
per cell. Rounds, bounds and the final cut are those of the product. Candidates race in a shuffled order, as the ids of
a pool are hashes. Exit code 1: the answer differs; 2: the table or an option is wrong.

`fewest_possible`: a kept candidate needs all of its cells, as does one that is dropped with a score equal to the last
one kept; every other needs just as many lost cells as prove that it is out, if all lost ones came first.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs where nuggets is not installed

from machine import describe_machine, describe_versions
from racing_results import HEADING, Outcome, races_row
from racing_tables import Table, made_up_table, read_table

from nuggets.config.configs import SHARD_SIZE
from nuggets.errors import NuggetsError
from nuggets.racing.next_round import ShardGains, next_round
from nuggets.scores.bounds import cutoff, score_bounds
from nuggets.scores.cuts import Cut, Threshold, TopFraction, cut_from_options, describe_cut, kept_count
from nuggets.scores.golden import ScoreTable
from nuggets.scores.ranking import rank_keys
from nuggets.scores.selection import count_scores, find_boundary

REAL = Path(__file__).resolve().parents[2] / "shared" / "reference" / "matrix.csv"
CUTS = (*map(TopFraction, (0.01, 0.05, 0.1, 0.25)), *map(Threshold, (0.3, 0.4, 0.5)))
_SEEDS = 10  # orders in which the real table races
_VISIT_CELLS = 4  # cells that a candidate gets at least in a round where its demonstration costs about that much


def main() -> int:
    """Race, print, write the JSON if asked to; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, metavar="FILE", help="race on this table only")
    parser.add_argument("--top-fraction", type=float, metavar="F", help="cut: keep this share of the best, 0 to 1")
    parser.add_argument("--threshold", type=float, metavar="X", help="cut: keep golden scores above this, 0 to 1")
    parser.add_argument(
        "--min-cells",
        type=int,
        metavar="N",
        help=f"least cells of a candidate in a round (default: {_VISIT_CELLS} where tokens are known, else 1)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="order of candidates, and synthetic tables (0)"
    )
    parser.add_argument("--candidates", nargs="+", type=int, metavar="N", help="sizes of the synthetic tables")
    parser.add_argument("--quick", action="store_true", help="leave out the table of 100,000 candidates")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "machine": describe_machine(torch.device("cpu")),
        "versions": describe_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print("\n".join(f"{key}: {value}" for key, value in record.items()), flush=True)
    try:
        cut = cut_from_options(vars(args))
        if args.table and cut is None:
            parser.error("--table needs a cut: give --top-fraction or --threshold")
        if args.table:
            outcome = race(read_table(args.table), cut, min_cells=args.min_cells, seed=args.seed)
            print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in asdict(outcome).items()))
            outcomes, found = [outcome], asdict(outcome)
        else:
            sizes = args.candidates or [1000, 10_000] + [100_000] * (not args.quick)
            outcomes = list(
                _programme([cut] if cut else CUTS, sizes, args.min_cells, seed=args.seed, real=not args.candidates)
            )
            found = {"same_answer": all(item.same_answer for item in outcomes), "races": list(map(asdict, outcomes))}
    except NuggetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record | found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(item.same_answer for item in outcomes) else 1


def race(table: Table, cut: Cut, *, min_cells: int | None, seed: int) -> Outcome:
    """Race to the end, as the product does, and compare the answer with the full table's."""
    if min_cells is None:
        min_cells = _VISIT_CELLS if table.demonstration_tokens is not None else 1
    order = np.random.default_rng(seed).permutation(len(table.gains))
    gains = table.gains[order]
    ids = pa.array([f"{place:032d}" for place in order.tolist()])
    revealed = _signed_float32(gains)
    known = np.full(gains.shape, np.nan, dtype=np.float32)
    tokens = table.anchor_tokens if table.anchor_tokens is not None else np.ones(gains.shape[1])
    started = time.perf_counter()

    def known_gains() -> Iterator[ShardGains]:
        for index, start in enumerate(range(0, len(known), SHARD_SIZE)):
            some = known[start : start + SHARD_SIZE]
            yield ShardGains(index, ids[start : start + SHARD_SIZE], some, np.ones(some.shape, dtype=bool))

    visits = np.zeros(len(gains), dtype=np.int64)
    rounds = 0
    while True:
        before = int(visits.sum())
        for choice in next_round(known_gains, cut, tokens, min_cells=min_cells, round_number=rounds).choices:
            here = slice(choice.shard.index * SHARD_SIZE, (choice.shard.index + 1) * SHARD_SIZE)
            known[here][choice.cells] = revealed[here][choice.cells]
            visits[here] += choice.cells.any(axis=1)
        if visits.sum() == before:
            break
        rounds += 1
    seconds = time.perf_counter() - started
    found = _kept_by_race(ids, gains, known, cut)
    return Outcome(
        table=table.name,
        candidates=gains.shape[0],
        anchors=gains.shape[1],
        cut=describe_cut(cut),
        min_cells=min_cells,
        seed=seed,
        cells_computed=int((~np.isnan(known)).sum()),
        fewest_possible=fewest_possible(gains, cut),
        full_table=gains.size,
        same_answer=bool(np.array_equal(order[found], kept_of_full_table(table.gains, cut))),
        kept=len(found),
        rounds=rounds,
        visits_per_candidate=round(float(visits.mean()), 4),
        tokens_share=_tokens_share(table, order, known, visits),
        seconds=round(seconds, 1),
    )


def kept_of_full_table(gains: NDArray[np.float64], cut: Cut) -> NDArray[np.int64]:
    """Positions of the candidates that a cut of all scores keeps, best first."""
    wins = (gains > 0).sum(axis=1)
    order = np.lexsort((np.arange(len(gains)), -gains.mean(axis=1), -wins))
    if isinstance(cut, Threshold):
        return order[wins[order] / gains.shape[1] > cut.value]
    return order[: kept_count(cut, len(gains))]


def fewest_possible(gains: NDArray[np.float64], cut: Cut) -> int:
    """How many cells any method has to compute, even one that knows beforehand which of them are lost."""
    anchors = gains.shape[1]
    score = (gains > 0).sum(axis=1) / anchors
    needed = cutoff(score, cut)
    losses = int(np.argmax((anchors - np.arange(anchors + 2)) / anchors < needed))  # the fewest that prove it
    return int(np.where(score >= needed, anchors, losses).sum())


def _kept_by_race(ids: Any, gains: NDArray[np.float64], known: NDArray[np.float32], cut: Cut) -> NDArray[np.int64]:
    """Positions of the candidates that the product's own cut keeps, best first."""
    bounds = score_bounds(known, np.ones(known.shape, dtype=bool))
    table = ScoreTable(
        candidate_ids=ids,
        candidate_rows=np.arange(len(ids)),
        shards=np.zeros(len(ids), dtype=np.int32),
        wins=bounds.wins,
        cells=bounds.cells,
        anchors=bounds.anchors,
        mean_gain=np.where(bounds.complete, gains.mean(axis=1), np.nan),
    )
    boundary, _ = find_boundary(lambda: [table], count_scores([table]), cut)
    keys = rank_keys(table)
    kept = np.flatnonzero(boundary.keeps(keys))
    return kept[np.argsort(keys[kept])]


def _tokens_share(
    table: Table, order: NDArray[np.int64], known: NDArray[np.float32], visits: NDArray[np.int64]
) -> float | None:
    """Tokens computed over those of the full table: a demonstration once per visit, an anchor once per cell."""
    if table.anchor_tokens is None or table.demonstration_tokens is None:
        return None
    computed = (~np.isnan(known)).sum(axis=0) @ table.anchor_tokens + visits @ table.demonstration_tokens[order]
    full = len(order) * table.anchor_tokens.sum() + table.demonstration_tokens.sum()
    return round(float(computed / full), 4)


def _signed_float32(gains: NDArray[np.float64]) -> NDArray[np.float32]:
    """As races hold them; what is too small for a float32 stays a win or a loss."""
    least = np.finfo(np.float32).smallest_subnormal
    rounded = gains.astype(np.float32)
    return np.where((rounded == 0) & (gains > 0), least, rounded)


def _programme(
    cuts: Iterable[Cut], sizes: Iterable[int], min_cells: int | None, *, seed: int, real: bool
) -> Iterator[Outcome]:
    """All races, each printed as it ends: the real table in several orders, then synthetic ones."""
    cuts = list(cuts)
    if real and not REAL.is_file():
        print(f"the real table is left out: {REAL} is not there")
    elif real:
        table = replace(read_table(REAL), name="real, matrix.csv")
        print(f"\n{table.name}: {_SEEDS} orders, mean and worst\n{HEADING}")
        for cut in cuts:
            outcomes = [race(table, cut, min_cells=min_cells, seed=seed + number) for number in range(_SEEDS)]
            print(races_row(outcomes), flush=True)
            yield from outcomes
    for table in (table for size in sizes for table in _by_cells_and_by_tokens(made_up_table(size, seed=seed))):
        print(f"\n{table.name}\n{HEADING}")
        for cut in cuts:
            outcome = race(table, cut, min_cells=min_cells, seed=seed)
            print(races_row([outcome]), flush=True)
            yield outcome


def _by_cells_and_by_tokens(table: Table) -> tuple[Table, Table]:
    """The same table twice: once every cell costs the same, as `fewest_possible` counts, once what its tokens cost."""
    alike = replace(table, name=f"{table.name}, cells cost the same", anchor_tokens=None, demonstration_tokens=None)
    return alike, replace(table, name=f"{table.name}, cells cost their tokens")


if __name__ == "__main__":
    sys.exit(main())
