"""The files of a published selection. Kept examples are read per shard and sorted by rank."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nuggets.pools.shards import Candidate, Pool, read_records
from nuggets.report.bins import score_bins
from nuggets.report.figure import scores_picture
from nuggets.report.markdown import RankedExample, ReportData, render_report
from nuggets.report.not_used import NotUsed
from nuggets.runs.manifest import Run
from nuggets.scores.anchor_wins import ReportedAnchor
from nuggets.scores.cuts import Cut, describe_cut
from nuggets.scores.golden import ScoreTable
from nuggets.scores.ranking import rank_keys
from nuggets.scores.selection import Boundary, SelectionSummary, Tables, candidates_by_cells
from nuggets.steps.candidate_notes import CandidateNotes
from nuggets.steps.not_used import described_elsewhere
from nuggets.store.external_sort import external_sort
from nuggets.store.parquet import read_table, save_tables
from nuggets.store.store import Store

SHOWN = 10  # best and worst candidates in report and artifacts
PICTURE = "scores.png"
ANCHORS = "anchors.parquet"
FILE_CONTENTS = {
    "selected.jsonl": "the kept examples, best first: the original fields, golden_score, cut_tokens, rank, example_id",
    "scores.parquet": "every candidate: its golden score, or the interval it lies in, its number of computed cells, "
    "its cut tokens, and why it has no score",
    PICTURE: "histogram of the golden scores, and the cut",
    ANCHORS: "every anchor: its text, its zero-shot loss, and how many of its cells are wins",
    "manifest.json": "configuration, hashes, versions, counts and timings",
    "report.md": "this page",
}
_PARTS = 64
_SAMPLE = 1 << 14  # candidates
_LINES = pa.schema([("key", pa.binary()), ("head", pa.large_string()), ("tail", pa.large_string())])


@dataclass(frozen=True, slots=True)
class DecidedScores:
    """A run's scores, where a cut divides them, and the notes on its candidates; None for an imported run."""

    tables: Tables
    boundary: Boundary
    notes: CandidateNotes | None = None


def save_selected(file: Path, store: Store, pool: Pool, scores: DecidedScores, *, memory: int) -> None:
    """Save the kept examples, one JSON object per line, best first. Lines beyond `memory` bytes are sorted on disk."""
    splits = _splits(scores.tables, scores.boundary)
    with external_sort("key", splits=splits, memory=memory) as by_rank, file.open("wb") as lines:
        for table in scores.tables():
            for kept in _kept_lines(store, pool, table, scores):
                by_rank.add(kept)
        rank = 0
        for kept in by_rank.sorted():
            for head, tail in zip(kept["head"].to_pylist(), kept["tail"].to_pylist(), strict=True):
                rank += 1
                lines.write(f"{head}{rank}{tail}\n".encode())


def save_scores(file: Path, scores: DecidedScores) -> int:
    """Save every candidate's scores in the order of example ids; return the number of candidates."""
    return save_tables(file, (scores_with_kept(table, scores.boundary, scores.notes) for table in scores.tables()))


def scores_with_kept(table: ScoreTable, boundary: Boundary | None, notes: CandidateNotes | None = None) -> Any:
    """A pyarrow table of scores, as exports and selections hold it.

    `kept` is null without a boundary, `cut_tokens` and `unscorable` without notes.
    """
    bounds = table.bounds
    eligible = table.anchors > 0
    unknown = ~bounds.complete | ~eligible
    return pa.table(
        {
            "candidate_id": table.candidate_ids,
            "candidate_row": table.candidate_rows,
            "golden_score": pa.array(table.golden_score, mask=unknown),
            "score_low": pa.array(bounds.low, mask=~eligible),
            "score_high": pa.array(bounds.high, mask=~eligible),
            "wins": table.wins,
            "cells": table.cells,
            "anchors": table.anchors,
            "mean_gain": pa.array(table.mean_gain, mask=unknown),
            "kept": pa.nulls(len(table), pa.bool_()) if boundary is None else boundary.keeps(rank_keys(table)),
            "cut_tokens": pa.nulls(len(table), pa.int32()) if notes is None else notes.cut_tokens(table),
            "unscorable": pa.nulls(len(table), pa.string()) if notes is None else notes.unscorable(table),
        }
    )


def save_picture(file: Path, run: Run, cut: Cut, summary: SelectionSummary) -> None:
    """Save the picture of the golden scores."""
    file.write_bytes(scores_picture(summary.counts, summary.kept, run=run.name, cut=cut))


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Content of a report in addition to the summary of the selection."""

    best_and_worst: Sequence[RankedExample]
    anchors: Sequence[ReportedAnchor] | None  # None for an imported run
    folder: str  # of the selection, full address
    rejects_file: str  # full address
    not_used: Sequence[NotUsed]


def report_markdown(run: Run, pool: Pool, cut: Cut, summary: SelectionSummary, shown: ReportInputs) -> str:
    """The report of a selection, in Markdown."""
    kept = int(summary.kept.sum())
    facts = {
        "cut": describe_cut(cut),
        "kept": f"{kept} of {summary.counts.candidates} candidates",
        "pool": f"{run.inputs['pool']['source']}: {pool.rows} rows, {pool.examples} distinct examples",
        **{name.replace("_", " "): value for name, value in run.counts.items() if not described_elsewhere(name)},
        "model": run.inputs["model"]["name"],
        "profile": run.identity["profile"],
        **({"encoder": run.references["encoder"]} if "encoder" in run.references else {}),
        "numbers": run.identity["dtype"],
        **({"scored": ", ".join(paths)} if (paths := run.references.get("engine_paths")) else {}),
        "mean gain in": run.inputs.get("mean_gain_unit", "nats per response token"),
    }
    if run.seconds:  # an imported run has no stages
        facts["seconds"] = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in run.seconds.items())
    return render_report(
        ReportData(
            title=f"{run.name}: {describe_cut(cut)}",
            facts=facts,
            not_used=shown.not_used,
            rejects_file=shown.rejects_file if pool.rejects else "",
            counts=summary.counts,
            bins=score_bins(summary.counts, summary.kept, cut),
            cells=candidates_by_cells(summary.counts),
            best=shown.best_and_worst[:SHOWN],
            worst=shown.best_and_worst[SHOWN:],
            picture=PICTURE,
            folder=shown.folder,
            files={name: meaning for name, meaning in FILE_CONTENTS.items() if name != ANCHORS or shown.anchors},
            anchors=shown.anchors or (),
        )
    )


def shown_examples(store: Store, pool: Pool, summary: SelectionSummary) -> tuple[RankedExample, ...]:
    """The best and the worst candidates, with their texts."""
    ids_by_shard: dict[int, set[str]] = defaultdict(set)
    for row in summary.best_and_worst:
        ids_by_shard[row.shard].add(row.candidate_id)
    texts: dict[str, Candidate] = {}
    for shard, ids in ids_by_shard.items():
        records = read_records(store, [pool.shards[shard]])
        texts |= {candidate.id: candidate for candidate, _ in records if candidate.id in ids}
    return tuple(
        RankedExample(row, texts[row.candidate_id].example.instruction, texts[row.candidate_id].example.output)
        for row in summary.best_and_worst
    )


def _splits(tables: Tables, boundary: Boundary) -> list[bytes]:
    """Keys that divide the kept candidates into parts of about equal size, estimated from the first candidates.

    Tables are in the order of ids, and ids are hashes: the first candidates are a random sample.
    """
    sample: list[bytes] = []
    for table in tables():
        keys = rank_keys(table)
        sample += keys[boundary.keeps(keys)].tolist()
        if len(sample) >= _SAMPLE:
            break
    sample.sort()
    return [sample[len(sample) * part // _PARTS] for part in range(1, _PARTS)] if sample else []


def _kept_lines(store: Store, pool: Pool, table: ScoreTable, scores: DecidedScores) -> Iterator[Any]:
    """One table per shard: sort key, and the JSON line before and after the rank, which sorting determines later."""
    keys = rank_keys(table)
    is_kept = scores.boundary.keeps(keys)
    added = [{"golden_score": score} for score in table.golden_score.tolist()]
    if scores.notes is not None:
        for fields, cut in zip(added, scores.notes.cut_tokens(table).to_pylist(), strict=True):
            fields["cut_tokens"] = cut
    for shard in np.unique(table.shards[is_kept]).tolist():
        kept = np.flatnonzero(is_kept & (table.shards == shard))
        ids = table.candidate_ids.take(pa.array(kept))
        stored = read_table(store, pool.shards[shard], ["example_id", "original"])
        rows = pc.index_in(ids, value_set=stored["example_id"].combine_chunks())
        originals = map(json.loads, stored["original"].take(rows).to_pylist())
        heads, tails = zip(*map(_line, ids.to_pylist(), originals, [added[row] for row in kept]), strict=True)
        yield pa.table([keys[kept].tolist(), heads, tails], schema=_LINES)


def _line(key: str, original: dict[str, Any], scored: dict[str, Any]) -> tuple[str, str]:
    added = {*scored, "rank", "example_id"}
    # Rows of a pool that was curated before have these fields already. They are renamed, so that none is lost.
    moved = {_free(f"original_{name}", original) if name in added else name: value for name, value in original.items()}
    head = json.dumps({**moved, **scored}, ensure_ascii=False)[:-1]
    return f'{head}, "rank": ', f', "example_id": {json.dumps(key)}}}'


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"original_{name}"
    return name
