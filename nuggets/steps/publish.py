"""Publishing a selection: the chosen data, everyone's scores, a manifest and a report, in a folder of its own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nuggets.errors import UsageError
from nuggets.pools.shards import Pool, read_pool_record
from nuggets.report.figure import data_address
from nuggets.report.markdown import RankedExample, files_table, picture, score_quantiles, selections_table
from nuggets.runs.manifest import Run, list_selections, read_run, selection_folder
from nuggets.scores.anchor_wins import anchor_wins_path, read_anchor_wins
from nuggets.scores.cuts import Cut, cut_from_options, cut_name, cut_options, describe_cut
from nuggets.scores.score_table import golden_digest, score_tables
from nuggets.scores.selection import (
    Boundary,
    SelectionSummary,
    Tables,
    candidates_by_cells,
    count_scores,
    find_boundary,
    summarize_selection,
    undecided_count,
)
from nuggets.steps.selection_files import (
    ANCHORS,
    PICTURE,
    SHOWN,
    ReportInputs,
    report_markdown,
    save_picture,
    save_scores,
    save_selected,
    shown_examples,
)
from nuggets.store.disk_buckets import MEMORY
from nuggets.store.store import Store
from nuggets.store.temporary import temporary_folder

FILES = (
    "selected.jsonl",
    "scores.parquet",
    PICTURE,
    "report.md",
)  # beside the manifest, with ANCHORS where they are known


@dataclass(frozen=True, slots=True)
class Selection:
    """A published selection: where it lies and what it came to."""

    run: str
    name: str
    cut: str
    folder: str  # full address
    candidates: int
    kept: int
    quantiles: dict[str, tuple[float, float]]  # of all candidates' golden scores: between which two each lies
    shown: tuple[RankedExample, ...]  # the best and the worst
    already_there: bool


def undecided_candidates(store: Store, run_name: str, cut: Cut) -> int:
    """How many of a run's candidates lack cells that a cut needs; 0 if it can be published as things stand.

    Raises UsageError if the run has no golden scores yet.
    """
    return undecided_count(count_scores(score_tables(store, read_run(store, run_name))()), cut)


def publish_selection(store: Store, run_name: str, cut: Cut, *, memory: int = MEMORY) -> Selection:
    """Apply a cut to a run's golden scores and publish what it keeps.

    Rows beyond `memory` bytes are sorted by way of the disk. Another cut makes another folder; the same cut finds its
    own and leaves it alone, unless a file is missing there, or it was made from other scores than are known by now.
    Raises UsageError if the run has no golden scores yet, or lacks cells that the cut needs.
    """
    run = read_run(store, run_name)
    tables = score_tables(store, run)
    # Before the scores are read: if others take their place meanwhile, the selection counts as outdated, not as new.
    golden = golden_digest(store, run_name)
    levels = count_scores(tables())
    if missing := undecided_count(levels, cut):
        raise UsageError(
            f"{missing} candidates of run '{run_name}' lack cells that the cut '{describe_cut(cut)}' needs: "
            "nuggets reselect computes them"
        )
    boundary, kept = find_boundary(tables, levels, cut, memory=memory)
    found = summarize_selection(tables, levels, boundary, ends=SHOWN)
    pool = read_pool_record(store, run.references["pool"])
    folder = selection_folder(run_name, cut_name(cut))
    selection = Selection(
        run=run.name,
        name=cut_name(cut),
        cut=describe_cut(cut),
        folder=store.uri(folder),
        candidates=levels.candidates,
        kept=kept,
        quantiles=score_quantiles(levels),
        shown=shown_examples(store, pool, found),
        already_there=_is_there(store, folder, _file_names(store, run), run, golden),
    )
    if not selection.already_there:
        decided = _Decided(run, golden, pool, cut, tables, boundary, found)
        _write_files(store, folder, decided, selection, memory=memory)
    return selection


def _file_names(store: Store, run: Run) -> tuple[str, ...]:
    """What a selection has beside its manifest: no anchors if the run was imported, or judged before they counted."""
    return (*FILES, ANCHORS) if store.exists(anchor_wins_path(run.name)) else FILES


def _is_there(store: Store, folder: str, names: Sequence[str], run: Run, golden: str) -> bool:
    """Whether a selection is published whole, and from these golden scores of this scoring key.

    Manifests of earlier versions do not say from which scores: these selections are made once more.
    """
    there = set(store.list(folder))
    if not {f"{folder}/{name}" for name in (*names, "manifest.json")} <= there:
        return False
    manifest = store.read_json(f"{folder}/manifest.json")
    key = manifest["run"]["references"].get("scoring_key")
    return bool(manifest.get("golden_sha256") == golden and key == run.references.get("scoring_key"))


def read_report(store: Store, selection: Selection) -> str:
    """A published selection's report, in Markdown."""
    return store.read(f"{selection_folder(selection.run, selection.name)}/report.md").decode()


def selection_page(store: Store, selection: Selection) -> str:
    """A published selection for a page that can't reach into the store, in Markdown.

    Its report with the picture in it, the full addresses of its files, and all selections of its run side by side.
    """
    folder = selection_folder(selection.run, selection.name)
    # As a paragraph of its own: an example's text that looks the same stands in a row of a table.
    linked, embedded = (
        f"\n\n{picture(address)}\n\n" for address in (PICTURE, data_address(store.read(f"{folder}/{PICTURE}")))
    )
    there = set(store.list(folder))
    paths = {name: f"{folder}/{name}" for name in (*FILES, ANCHORS, "manifest.json")}
    files = {name: store.uri(path) for name, path in paths.items() if path in there}
    parts = [
        read_report(store, selection).replace(linked, embedded, 1).rstrip("\n"),
        "## Where the files lie",
        files_table(files),
        "## Selections of this run",
        compare_selections(store, selection.run),
    ]
    return "\n\n".join(parts) + "\n"


def compare_selections(store: Store, run: str) -> str:
    """All selections of a run side by side, as Markdown, oldest first."""
    made = list_selections(store, run)
    return selections_table(
        [(item["cut_description"], item["kept"], store.uri(selection_folder(run, item["name"]))) for item in made]
    )


@dataclass(frozen=True, slots=True)
class _Decided:
    """A cut of a run that is certain, and what it comes to."""

    run: Run
    golden: str  # digest of its golden scores
    pool: Pool
    cut: Cut
    tables: Tables
    boundary: Boundary
    found: SelectionSummary


def _write_files(store: Store, folder: str, decided: _Decided, selection: Selection, *, memory: int) -> None:
    run, pool, cut, found = decided.run, decided.pool, decided.cut, decided.found
    with temporary_folder() as temporary:
        files = {name: temporary / name for name in _file_names(store, run)}
        save_selected(files["selected.jsonl"], store, pool, decided.tables, decided.boundary, memory=memory)
        save_scores(files["scores.parquet"], decided.tables, decided.boundary)
        save_picture(files[PICTURE], run, cut, found)
        if ANCHORS in files:
            files[ANCHORS].write_bytes(store.read(anchor_wins_path(run.name)))
        anchors = read_anchor_wins(store, run.name)
        shown = ReportInputs(selection.shown, anchors, selection.folder, store.uri(pool.rejects_path))
        report = report_markdown(run, pool, cut, found, shown)
        files["report.md"].write_text(report, encoding="utf-8")
        hashes = {name: _sha256(file) for name, file in files.items()}
        store.remove(f"{folder}/manifest.json")
        for name, file in files.items():
            store.write_file(f"{folder}/{name}", file)
    manifest = {
        "name": selection.name,
        "cut": cut_options(cut),
        "cut_description": describe_cut(cut),
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "candidates": selection.candidates,
        "kept": selection.kept,
        "golden_score_quantiles": selection.quantiles,
        "candidates_by_cells": {str(cells): n for cells, n in sorted(candidates_by_cells(found.levels).items())},
        "golden_sha256": decided.golden,
        "sha256": hashes,
        "run": asdict(run),
    }
    # Last, because its presence says that the selection is whole.
    store.write(f"{folder}/manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def published_cut(selections: Sequence[dict[str, Any]], run: str, name: str | None) -> Cut:
    """The cut of a run's selection, the named one or the newest. Raises UsageError if there is none."""
    options = {item["name"]: item["cut"] for item in selections}
    if not options or (name is not None and name not in options):
        listed = ", ".join(options) or "none"
        raise UsageError(f"run '{run}' has no selection {name or ''}; selections there: {listed}")
    cut = cut_from_options(options[name or selections[-1]["name"]])
    assert cut is not None, "a selection is published with its cut"
    return cut
