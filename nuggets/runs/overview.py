"""What people ask of runs: what they are made from, how far they are, why they failed, and where their files lie."""

from dataclasses import dataclass

from nuggets.runs.manifest import Run, golden_path, list_selections, run_folder, selection_folder
from nuggets.store.store import Store


@dataclass(frozen=True, slots=True)
class SelectionOverview:
    """A selection of a run."""

    name: str
    cut: str
    kept: int
    candidates: int
    created_at: str
    address: str


@dataclass(frozen=True, slots=True)
class RunOverview:
    """A run. What it has not come to yet, or does not have, is None."""

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
    cells: int | None  # those that the run has counted; in an attempt that did not end further ones may be there
    selections: tuple[SelectionOverview, ...]


def run_overview(store: Store, run: Run) -> RunOverview:
    """A run at a glance."""
    table = run.counts.get("cells")
    return RunOverview(
        name=run.name,
        state=run.state.value,
        message=run.message,
        created_at=run.created_at,
        updated_at=run.updated_at,
        model=_named(run.inputs.get("model"), "name"),
        pool=_named(run.inputs.get("pool"), "source"),
        examples=run.counts.get("examples"),
        anchors=run.counts.get("anchors"),
        table=table,
        cells=None if table is None else run.counts.get("cells_found", 0) + run.counts.get("cells_computed", 0),
        selections=tuple(
            SelectionOverview(
                name=item["name"],
                cut=item["cut_description"],
                kept=item["kept"],
                candidates=item["candidates"],
                created_at=item["created_at"],
                address=store.uri(selection_folder(run.name, item["name"])),
            )
            for item in list_selections(store, run.name)
        ),
    )


def run_files(store: Store, run: Run) -> dict[str, str]:
    """The full addresses of what a run has in its store: its own, and what it shares with others."""
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
