"""Publishing a selection: the chosen data, everyone's scores, a manifest and a report, in a folder of its own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from nuggets.cuts import Cut, cut_name, describe_cut
from nuggets.errors import UsageError
from nuggets.golden import GoldenTable
from nuggets.judgement import read_golden
from nuggets.pool import read_pool_record, read_records
from nuggets.report import QUANTILES, RankedExample
from nuggets.runs import Run, read_run, selection_folder
from nuggets.selection import apply_cut
from nuggets.selection_files import (
    ranked_examples,
    report_markdown,
    scores_parquet,
    selected_jsonl,
    shown_positions,
)
from nuggets.store import Store, open_store


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
    table = _golden_scores(store, run)
    pool = read_pool_record(store, run.references["pool"])
    result = apply_cut(table, cut)
    folder = selection_folder(run_name, cut_name(cut))
    already_there = store.exists(f"{folder}/manifest.json")
    positions = [index for _, index in shown_positions(result)] + ([] if already_there else result.kept.tolist())
    needed = {table.candidate_ids[index] for index in positions}
    records = {item.id: (item, row) for item, row in read_records(store, pool.shards) if item.id in needed}
    quantiles = zip(QUANTILES, np.quantile(table.golden_score, QUANTILES), strict=True)
    selection = Selection(
        run=run.name,
        name=cut_name(cut),
        cut=describe_cut(cut),
        folder=store.uri(folder),
        candidates=len(result.order),
        kept=len(result.kept),
        quantiles={f"{quantile:g}": round(float(value), 6) for quantile, value in quantiles},
        shown=ranked_examples(result, records),
        already_there=already_there,
    )
    if not already_there:
        contents = {
            "selected.jsonl": selected_jsonl(result, records),
            "scores.parquet": scores_parquet(result),
            "report.md": report_markdown(run, pool, result, selection.shown),
        }
        for name, content in contents.items():
            store.write(f"{folder}/{name}", content)
        # Last, because its presence says that the selection is whole.
        store.write(f"{folder}/manifest.json", _manifest(run, cut, selection, contents))
    return selection


def read_report(store_url: str, selection: Selection) -> str:
    """A published selection's report, in Markdown."""
    return open_store(store_url).read(f"{selection_folder(selection.run, selection.name)}/report.md").decode()


def selection_scores(store: Store, run: str, selections: Sequence[dict[str, Any]], name: str | None) -> str:
    """Path of the scores of a run's selection, the named one or the newest. Raises UsageError if there is none."""
    names = [item["name"] for item in selections]
    if not names or (name is not None and name not in names):
        raise UsageError(f"run '{run}' has no selection {name or ''}; selections there: {', '.join(names) or 'none'}")
    return f"{selection_folder(run, name or names[-1])}/scores.parquet"


def _golden_scores(store: Store, run: Run) -> GoldenTable:
    try:
        return read_golden(store, run.name)
    except FileNotFoundError:
        raise UsageError(
            f"run '{run.name}' is {run.state} and has no golden scores yet: finish it with nuggets curate first"
        ) from None


def _manifest(run: Run, cut: Cut, selection: Selection, contents: dict[str, bytes]) -> bytes:
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
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode()
