"""Publish a selection: the kept examples, all scores, a report and a manifest, in a folder that never changes."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from nuggets.errors import UsageError
from nuggets.pools.shards import Pool, read_pool_record
from nuggets.progress import report_stage
from nuggets.report.figure import data_address
from nuggets.report.markdown import RankedExample, files_table, picture, score_quantiles, selections_table
from nuggets.report.not_used import NotUsed, not_used_line
from nuggets.runs.manifest import Run, read_run
from nuggets.runs.selections import SelectionManifest, newest_selections, selection_folder, write_selection
from nuggets.scores.anchor_wins import anchor_wins_path, read_anchor_wins
from nuggets.scores.cuts import Cut, cut_from_options, cut_name, cut_options, describe_cut
from nuggets.scores.score_table import golden_digest, score_tables
from nuggets.scores.selection import (
    SelectionSummary,
    candidates_by_cells,
    count_scores,
    find_boundary,
    summarize_selection,
    undecided_count,
)
from nuggets.steps.candidate_notes import read_candidate_notes
from nuggets.steps.not_used import what_was_not_used
from nuggets.steps.selection_files import (
    ANCHORS,
    PICTURE,
    SHOWN,
    DecidedScores,
    ReportInputs,
    report_markdown,
    save_picture,
    save_scores,
    save_selected,
    shown_examples,
)
from nuggets.store.addresses import digest
from nuggets.store.external_sort import MEMORY
from nuggets.store.store import Store
from nuggets.store.temporary import temporary_folder

_ALWAYS = ("selected.jsonl", "scores.parquet", PICTURE, "report.md")  # a run that was scored here has ANCHORS, too
_OF_AN_ATTEMPT = ("state", "message", "attempt", "updated_at")  # fields of a run that do not concern a selection


@dataclass(frozen=True, slots=True)
class Selection:
    """A published selection: its address and its counts."""

    run: str
    name: str
    cut: str
    path: str  # of the folder, in the store
    folder: str  # full address
    candidates: int
    kept: int
    quantiles: dict[str, tuple[float, float]]  # of all golden scores; each as its bounds
    shown: tuple[RankedExample, ...]  # the best and the worst
    already_there: bool


def undecided_candidates(store: Store, run_name: str, cut: Cut) -> int:
    """How many candidates of a run lack cells that a cut needs; 0 if the cut can be published now.

    Raises UsageError if the run has no golden scores yet.
    """
    return undecided_count(count_scores(score_tables(store, read_run(store, run_name))()), cut)


def publish_selection(store: Store, run_name: str, cut: Cut, *, memory: int = MEMORY) -> Selection:
    """Apply a cut to a run's golden scores and publish what it keeps.

    Rows beyond `memory` bytes are sorted by way of the disk. Each cut and each score table makes a folder; a folder
    that is complete is not written again.
    Raises UsageError if the run has no golden scores yet, or lacks cells that the cut needs.
    """
    run = read_run(store, run_name)
    tables = score_tables(store, run)
    # Before the scores are read: if they are replaced in the meantime, the next reselect publishes the new ones.
    scores = _scores_digest(store, run)
    counts = count_scores(tables())
    if missing := undecided_count(counts, cut):
        raise UsageError(
            f"{missing} candidates of run '{run_name}' lack cells that the cut '{describe_cut(cut)}' needs: "
            "nuggets reselect computes them"
        )
    boundary, kept = find_boundary(tables, counts, cut)
    summary = summarize_selection(tables, counts, boundary, shown=SHOWN)
    pool = read_pool_record(store, run.references["pool"])
    folder = selection_folder(run_name, cut_name(cut), scores)
    selection = Selection(
        run=run.name,
        name=cut_name(cut),
        cut=describe_cut(cut),
        path=folder,
        folder=store.uri(folder),
        candidates=counts.candidates,
        kept=kept,
        quantiles=score_quantiles(counts),
        shown=shown_examples(store, pool, summary),
        already_there=_is_whole(store, folder, _file_names(store, run)),
    )
    notes = read_candidate_notes(store, run)
    not_used = what_was_not_used(store, run, pool, summary, notes)
    report_stage(not_used_line(not_used))
    if not selection.already_there:
        decided = _Decided(run, scores, pool, cut, DecidedScores(tables, boundary, notes), summary, not_used)
        _write_files(store, folder, decided, selection, memory=memory)
    return selection


def _file_names(store: Store, run: Run) -> tuple[str, ...]:
    """The files of a selection beside its manifest: no anchors if their wins were not counted (imported runs)."""
    return (*_ALWAYS, ANCHORS) if store.exists(anchor_wins_path(run.name)) else _ALWAYS


def _scores_digest(store: Store, run: Run) -> str:
    """Digest of a run's golden scores and of its scoring key: each makes another selection."""
    return digest({"scores": golden_digest(store, run.name), "scoring_key": run.references.get("scoring_key")})


def _is_whole(store: Store, folder: str, names: Sequence[str]) -> bool:
    """Whether a selection is published with all of its files."""
    return {f"{folder}/{name}" for name in (*names, "manifest.json")} <= set(store.list(folder))


def read_report(store: Store, selection: Selection) -> str:
    """A published selection's report, in Markdown."""
    return store.read(f"{selection.path}/report.md").decode()


def selection_page(store: Store, selection: Selection) -> str:
    """A published selection as Markdown for a page that has no access to the store.

    It holds the report with the embedded picture, the full addresses of the files, and the run's newest selections.
    """
    folder = selection.path
    # As a paragraph: the same text in an example is in a row of a table, and stays.
    linked, embedded = (
        f"\n\n{picture(address)}\n\n" for address in (PICTURE, data_address(store.read(f"{folder}/{PICTURE}")))
    )
    stored = set(store.list(folder))
    paths = {name: f"{folder}/{name}" for name in (*_ALWAYS, ANCHORS, "manifest.json")}
    files = {name: store.uri(path) for name, path in paths.items() if path in stored}
    parts = [
        read_report(store, selection).replace(linked, embedded, 1).rstrip("\n"),
        "## Addresses of the files",
        files_table(files),
        "## Selections of this run",
        compare_selections(store, selection.run),
    ]
    return "\n\n".join(parts) + "\n"


def compare_selections(store: Store, run: str) -> str:
    """The newest selection of each cut of a run side by side, as Markdown, oldest first."""
    newest = newest_selections(store, run)
    return selections_table([(item.cut_description, item.kept, store.uri(item.folder)) for item in newest])


@dataclass(frozen=True, slots=True)
class _Decided:
    """A decided cut of a run, and its result."""

    run: Run
    scores_digest: str
    pool: Pool
    cut: Cut
    scores: DecidedScores
    summary: SelectionSummary
    not_used: tuple[NotUsed, ...]


def _write_files(store: Store, folder: str, decided: _Decided, selection: Selection, *, memory: int) -> None:
    run, pool, cut, summary = decided.run, decided.pool, decided.cut, decided.summary
    with temporary_folder() as temporary:
        files = {name: temporary / name for name in _file_names(store, run)}
        save_selected(files["selected.jsonl"], store, pool, decided.scores, memory=memory)
        save_scores(files["scores.parquet"], decided.scores)
        save_picture(files[PICTURE], run, cut, summary)
        if ANCHORS in files:
            files[ANCHORS].write_bytes(store.read(anchor_wins_path(run.name)))
        anchors = read_anchor_wins(store, run.name)
        rejects_file = store.uri(pool.rejects_path)
        shown = ReportInputs(selection.shown, anchors, selection.folder, rejects_file, decided.not_used)
        report = report_markdown(run, pool, cut, summary, shown)
        files["report.md"].write_text(report, encoding="utf-8")
        digests = {name: _file_digest(file) for name, file in files.items()}
        store.remove(f"{folder}/manifest.json")  # present if another file of the folder was deleted
        for name, file in files.items():
            store.write_file(f"{folder}/{name}", file)
    by_cells = candidates_by_cells(summary.counts)
    manifest = SelectionManifest(
        name=selection.name,
        cut=cut_options(cut),
        cut_description=describe_cut(cut),
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        candidates=selection.candidates,
        kept=selection.kept,
        golden_score_quantiles=selection.quantiles,
        candidates_by_cells={str(cells): count for cells, count in sorted(by_cells.items())},
        scores_digest=decided.scores_digest,
        digests=digests,
        run={name: value for name, value in asdict(run).items() if name not in _OF_AN_ATTEMPT},
    )
    write_selection(store, manifest)


def _file_digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def published_cut(selections: Sequence[SelectionManifest], run: str, name: str | None) -> Cut:
    """The cut of a run's selection, the named one or the newest. Raises UsageError if there is none."""
    options = {selection.name: selection.cut for selection in selections}
    if not options or (name is not None and name not in options):
        listed = ", ".join(options) or "none"
        raise UsageError(f"run '{run}' has no selection {name or ''}; selections there: {listed}")
    cut = cut_from_options(options[name or selections[-1].name])
    assert cut is not None, "a selection is published with its cut"
    return cut
