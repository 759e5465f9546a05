"""A run at a glance: its inputs, its progress, why it failed, and the addresses of its files."""

from dataclasses import dataclass

from nuggets.runs.attempts import observed_state
from nuggets.runs.manifest import Run, golden_path, run_folder
from nuggets.runs.selections import list_selections
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class SelectionOverview:
    """A selection of a run. `is_newest`: no later selection of the same cut exists."""

    name: str
    cut: str
    kept: int
    candidates: int
    created_at: str
    address: str
    is_newest: bool


@dataclass(frozen=True, slots=True)
class RunOverview:
    """A run. A value that is not known yet, or does not exist, is None. Selections are listed oldest first."""

    name: str
    state: str
    message: str
    created_at: str
    updated_at: str
    model: str | None
    pool: str | None
    examples: int | None
    anchors: int | None
    table: int | None  # cells of the full table
    cells: int | None  # counted when an attempt starts and ends: an attempt that was cut off may have stored more
    selections: tuple[SelectionOverview, ...]


def run_overview(store: Store, run: Run) -> RunOverview:
    """The overview of a run."""
    table = run.counts.get("cells")
    return RunOverview(
        name=run.name,
        state=observed_state(store, run).value,
        message=run.message,
        created_at=run.created_at,
        updated_at=run.updated_at,
        model=_named(run.inputs.get("model"), "name"),
        pool=_named(run.inputs.get("pool"), "source"),
        examples=run.counts.get("examples"),
        anchors=run.counts.get("anchors"),
        table=table,
        cells=None if table is None else run.counts.get("cells_found", 0) + run.counts.get("cells_computed", 0),
        selections=_selections(store, run.name),
    )


def _selections(store: Store, name: str) -> tuple[SelectionOverview, ...]:
    selections = list_selections(store, name)
    newest = {selection.name: selection.folder for selection in selections}
    return tuple(
        SelectionOverview(
            name=selection.name,
            cut=selection.cut_description,
            kept=selection.kept,
            candidates=selection.candidates,
            created_at=selection.created_at,
            address=store.uri(selection.folder),
            is_newest=newest[selection.name] == selection.folder,
        )
        for selection in selections
    )


def run_files(store: Store, run: Run) -> dict[str, str]:
    """The full addresses of a run's own artifacts and of those that it shares with other runs, if they are stored."""
    references = run.references
    paths = {"manifest": f"{run_folder(run.name)}/manifest.json", "golden scores": golden_path(run.name)}
    if "pool" in references:
        paths |= {"pool": f"pools/{references['pool']}", "rejects": f"pools/{references['pool']}/rejects.jsonl"}
    if "anchors" in references:
        paths["anchors"] = references["anchors"]
    if "scoring_key" in references:
        paths["cells"] = f"cells/{references['scoring_key']}"
    return {what: store.uri(path) for what, path in paths.items() if store.exists(path)}


def _named(made_from: object, key: str) -> str | None:
    return made_from.get(key) if isinstance(made_from, dict) else None
