"""The contents of a published selection's files: what was cut, as bytes."""

import json
from collections.abc import Mapping
from typing import Any

from nuggets.columns import table_bytes
from nuggets.cuts import describe_cut
from nuggets.pool import Candidate, Pool
from nuggets.report import RankedExample, ReportData, render_report
from nuggets.runs import Run
from nuggets.selection import CutResult

Records = Mapping[str, tuple[Candidate, dict[str, Any]]]  # example id -> candidate and its original row

SHOWN = 10  # best and worst candidates in report and artifacts
FILES = {
    "selected.jsonl": "the kept examples, best first: the original fields, golden_score, rank, example_id",
    "scores.parquet": "every candidate's golden score, wins, anchors, mean gain, and whether it is kept",
    "manifest.json": "configuration, hashes, versions, counts and timings",
    "report.md": "this page",
}


def selected_jsonl(result: CutResult, records: Records) -> bytes:
    """The kept examples, one JSON object a line, best first."""
    lines = []
    for rank, index in enumerate(result.kept, start=1):
        key = result.table.candidate_ids[index]
        added = {"golden_score": float(result.table.golden_score[index]), "rank": rank, "example_id": key}
        # A pool that was curated before has these fields already: its own move aside, none is lost.
        original = {f"original_{name}" if name in added else name: value for name, value in records[key][1].items()}
        lines.append(json.dumps(original | added, ensure_ascii=False).encode() + b"\n")
    return b"".join(lines)


def scores_parquet(result: CutResult) -> bytes:
    """Every candidate's scores, in the order of the pool."""
    table = result.table
    return table_bytes(
        {
            "candidate_id": list(table.candidate_ids),
            "candidate_row": table.candidate_rows,
            "golden_score": table.golden_score,
            "wins": table.wins,
            "anchors": table.anchors,
            "mean_gain": table.mean_gain,
            "kept": result.is_kept,
        }
    )


def report_markdown(run: Run, pool: Pool, result: CutResult, shown: tuple[RankedExample, ...]) -> bytes:
    """The report for people."""
    facts = {
        "cut": describe_cut(result.cut),
        "kept": f"{len(result.kept)} of {len(result.order)} candidates",
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
    return render_report(
        ReportData(
            title=f"{run.name}: {describe_cut(result.cut)}",
            facts=facts,
            rejects=pool.rejects,
            scores=result.table.golden_score,
            kept=result.is_kept,
            best=shown[:SHOWN],
            worst=shown[SHOWN:],
            files=FILES,
        )
    ).encode()


def shown_positions(result: CutResult) -> list[tuple[int, int]]:
    """Rank and position in the table of the candidates that are shown: the best and the worst."""
    places = list(enumerate(result.order.tolist(), start=1))
    return [*places[:SHOWN], *places[SHOWN:][-SHOWN:]]


def ranked_examples(result: CutResult, records: Records) -> tuple[RankedExample, ...]:
    """The candidates that are shown, with their texts."""
    table, is_kept = result.table, result.is_kept
    shown = []
    for rank, index in shown_positions(result):
        candidate, _ = records[table.candidate_ids[index]]
        shown.append(
            RankedExample(
                rank=rank,
                example_id=candidate.id,
                row=candidate.row,
                golden_score=float(table.golden_score[index]),
                wins=int(table.wins[index]),
                anchors=int(table.anchors[index]),
                mean_gain=float(table.mean_gain[index]),
                kept=bool(is_kept[index]),
                instruction=candidate.example.instruction,
                output=candidate.example.output,
            )
        )
    return tuple(shown)
