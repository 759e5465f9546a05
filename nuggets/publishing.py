"""Publishing a selection: the chosen data, everyone's scores, a manifest and a report, in a folder of its own."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuggets.columns import table_bytes
from nuggets.cuts import Cut, cut_name, describe_cut
from nuggets.errors import UsageError
from nuggets.golden import GoldenTable
from nuggets.judgement import read_golden
from nuggets.pool import Candidate, Pool, read_pool_record, read_records
from nuggets.report import QUANTILES, RankedExample, ReportData, render_report
from nuggets.runs import Run, read_run, selection_folder
from nuggets.selection import ranking, select
from nuggets.store import Store, open_store

Records = Mapping[str, tuple[Candidate, dict[str, Any]]]  # example id -> candidate and its original row

_SHOWN = 10  # best and worst candidates in report and artifacts
FILES = {
    "selected.jsonl": "the kept examples, best first: the original fields, golden_score, rank, example_id",
    "scores.parquet": "every candidate's golden score, wins, anchors, mean gain, and whether it is kept",
    "manifest.json": "configuration, hashes, versions, counts and timings",
    "report.md": "this page",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A published selection: where it lies and what it came to."""

    run: str
    name: str
    cut: str
    folder: str  # full address
    candidates: int
    kept: int
    quantiles: dict[str, float]  # of all candidates' golden scores
    shown: tuple[RankedExample, ...]  # the best and the worst
    already_there: bool


def publish_selection(store_url: str, run_name: str, cut: Cut) -> Selection:
    """Apply a cut to a run's golden scores and publish what it keeps.

    Nothing is overwritten: another cut makes another folder, and the same cut finds its own and leaves it alone.
    Raises UsageError if the run has no golden scores yet.
    """
    store = open_store(store_url)
    run = read_run(store, run_name)
    try:
        table = read_golden(store, run_name)
    except FileNotFoundError:
        raise UsageError(
            f"run '{run_name}' is {run.state} and has no golden scores yet: finish it with nuggets curate first"
        ) from None
    pool = read_pool_record(store, run.references["pool"])
    folder = selection_folder(run_name, cut_name(cut))
    order = ranking(table)
    kept = select(table, cut)
    already_there = store.exists(f"{folder}/manifest.json")
    shown = [*order[:_SHOWN], *order[_SHOWN:][-_SHOWN:]]
    needed = {table.candidate_ids[index] for index in [*shown, *([] if already_there else kept)]}
    records = {
        candidate.id: (candidate, row) for candidate, row in read_records(store, pool.shards) if candidate.id in needed
    }
    selection = _describe(store, run, cut, table, order, kept, records, folder=folder, already_there=already_there)
    if already_there:
        return selection
    contents = {
        "selected.jsonl": _selected_jsonl(table, kept, records),
        "scores.parquet": scores_bytes(table, kept),
        "report.md": _report(run, pool, cut, table, kept, selection).encode(),
    }
    for name, content in contents.items():
        store.write(f"{folder}/{name}", content)
    manifest = {
        "name": selection.name,
        "cut": asdict(cut) | {"rule": type(cut).__name__, "meaning": describe_cut(cut)},
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "candidates": selection.candidates,
        "kept": selection.kept,
        "golden_score_quantiles": selection.quantiles,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "run": asdict(run),
    }
    # Last, because its presence says that the selection is whole.
    store.write(f"{folder}/manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return selection


def read_report(store_url: str, selection: Selection) -> str:
    """A published selection's report, in Markdown."""
    return open_store(store_url).read(f"{selection_folder(selection.run, selection.name)}/report.md").decode()


def scores_bytes(table: GoldenTable, kept: NDArray[np.int64]) -> bytes:
    """Every candidate's scores as Parquet, in the order of the pool."""
    return table_bytes(
        {
            "candidate_id": list(table.candidate_ids),
            "candidate_row": table.candidate_rows,
            "golden_score": table.golden_score,
            "wins": table.wins,
            "anchors": table.anchors,
            "mean_gain": table.mean_gain,
            "kept": np.isin(np.arange(len(table.candidate_ids)), kept),
        }
    )


def _selected_jsonl(table: GoldenTable, kept: NDArray[np.int64], records: Records) -> bytes:
    lines = []
    for rank, index in enumerate(kept, start=1):
        key = table.candidate_ids[index]
        score = float(table.golden_score[index])
        added = {"golden_score": score, "rank": rank, "example_id": key}
        # A pool that was curated before has these fields already: its own move aside, none is lost.
        original = {f"original_{name}" if name in added else name: value for name, value in records[key][1].items()}
        row = original | added
        lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return b"".join(lines)


def _describe(
    store: Store,
    run: Run,
    cut: Cut,
    table: GoldenTable,
    order: NDArray[np.int64],
    kept: NDArray[np.int64],
    records: Records,
    *,
    folder: str,
    already_there: bool,
) -> Selection:
    chosen = set(kept.tolist())
    scores = table.golden_score
    places = list(enumerate(order.tolist(), start=1))
    shown = [*places[:_SHOWN], *places[_SHOWN:][-_SHOWN:]]
    return Selection(
        run=run.name,
        name=cut_name(cut),
        cut=describe_cut(cut),
        folder=store.uri(folder),
        candidates=len(order),
        kept=len(kept),
        quantiles={
            f"{q:g}": round(float(value), 6) for q, value in zip(QUANTILES, np.quantile(scores, QUANTILES), strict=True)
        },
        shown=tuple(
            _ranked(rank, index, table, records[table.candidate_ids[index]][0], index in chosen)
            for rank, index in shown
        ),
        already_there=already_there,
    )


def _ranked(rank: int, index: int, table: GoldenTable, candidate: Candidate, kept: bool) -> RankedExample:
    return RankedExample(
        rank=rank,
        example_id=candidate.id,
        row=candidate.row,
        golden_score=float(table.golden_score[index]),
        wins=int(table.wins[index]),
        anchors=int(table.anchors[index]),
        mean_gain=float(table.mean_gain[index]),
        kept=kept,
        instruction=candidate.example.instruction,
        output=candidate.example.output,
    )


def _report(run: Run, pool: Pool, cut: Cut, table: GoldenTable, kept: NDArray[np.int64], selection: Selection) -> str:
    facts = {
        "cut": describe_cut(cut),
        "kept": f"{selection.kept} of {selection.candidates} candidates",
        "pool": f"{run.inputs['pool']['source']}: {pool.rows} rows, {pool.examples} distinct examples, "
        f"{pool.duplicates} duplicates, {sum(pool.rejects.values())} rejected, "
        f"{pool.dropped_turns} later turns dropped",
        **{name.replace("_", " "): value for name, value in run.counts.items() if name not in ("rows", "examples")},
        "model": run.inputs["model"]["name"],
        "profile": run.identity["profile"],
        "numbers": run.identity["dtype"],
        "mean gain in": run.inputs.get("mean_gain_unit", "nats per response token"),
        "seconds": ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in run.seconds.items()),
    }
    half = min(_SHOWN, len(selection.shown))
    return render_report(
        ReportData(
            title=f"{run.name}: {describe_cut(cut)}",
            facts=facts,
            rejects=pool.rejects,
            scores=table.golden_score,
            kept=np.isin(np.arange(selection.candidates), kept),
            best=selection.shown[:half],
            worst=selection.shown[half:],
            files=FILES,
        )
    )


def selection_scores(store: Store, run: str, selections: Sequence[dict[str, Any]], name: str | None) -> str:
    """Path of the scores of a run's selection, the named one or the newest. Raises UsageError if there is none."""
    names = [item["name"] for item in selections]
    if not names or (name is not None and name not in names):
        raise UsageError(f"run '{run}' has no selection {name or ''}; selections there: {', '.join(names) or 'none'}")
    return f"{selection_folder(run, name or names[-1])}/scores.parquet"
