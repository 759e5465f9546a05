"""Runs: what is kept of one configuration, its state, and how it refers to what all runs share.

```
runs/<name>/manifest.json          configuration, hashes, references, counts, timings, state; rewritten as it goes on
runs/<name>/worklists/             what each scoring task is to compute; swept by nuggets gc a week later
runs/<name>/golden.parquet         every candidate's golden score or its bounds; replaced when more cells are there
runs/<name>/anchors.parquet        how often each anchor is won; goes with golden.parquet
runs/<name>/selections/<cut>/      selected.jsonl scores.parquet scores.png anchors.parquet report.md
                                   manifest.json; made again when more is known
```
"""

import json
import logging
import platform
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata
from typing import Any

from nuggets.errors import StoreError, UsageError
from nuggets.store.store import Store

logger = logging.getLogger(__name__)
PACKAGES = ("nuggets", "torch", "transformers", "sentence-transformers", "scikit-learn", "numpy", "pandas", "prefect")


class RunState(StrEnum):
    """How far a run has come. A run killed without warning stays `running`; its `updated_at` tells."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Run:
    """The manifest of a run."""

    name: str
    state: RunState
    created_at: str  # ISO 8601, UTC
    updated_at: str
    config: dict[str, Any]
    identity: dict[str, Any]  # what determines the scores: a run of the same name has to have the same
    inputs: dict[str, Any] = field(default_factory=dict)  # fingerprints and digests of pool, model, encoder
    references: dict[str, Any] = field(default_factory=dict)  # scoring key, pool id, paths in the store
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # wall time per stage of the last attempt
    versions: dict[str, str] = field(default_factory=dict)
    message: str = ""


def run_folder(name: str) -> str:
    """Where a run's own artifacts lie."""
    return f"runs/{name}"


def golden_path(name: str) -> str:
    """Where a run's golden scores lie."""
    return f"{run_folder(name)}/golden.parquet"


def selection_folder(name: str, cut_name: str) -> str:
    """Where the selection of one cut lies."""
    return f"{run_folder(name)}/selections/{cut_name}"


def open_run(
    store: Store, name: str, *, config: Mapping[str, Any], identity: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Run:
    """Start a run, or go on with the one of this name.

    Raises UsageError if that one was made from something else: two kinds of scores under one name could be confused.
    """
    now = _now()
    path = f"{run_folder(name)}/manifest.json"
    if store.exists(path):
        run = read_run(store, name)
        changed = [key for key in {**run.identity, **identity} if run.identity.get(key) != identity.get(key)]
        if changed:
            listed = "; ".join(f"{key}: {run.identity.get(key)} there, {identity.get(key)} now" for key in changed)
            raise UsageError(
                f"run '{name}' exists and was made from something else ({listed}): give another --run name"
            )
        run = replace(run, config=dict(config), state=RunState.RUNNING, message="")
    else:
        run = Run(name, RunState.RUNNING, now, now, dict(config), dict(identity))
    return save_run(store, replace(run, inputs=dict(inputs), versions=versions()))


def save_run(store: Store, run: Run) -> Run:
    """Store a run's manifest with the time of now."""
    run = replace(run, updated_at=_now())
    store.write(f"{run_folder(run.name)}/manifest.json", json.dumps(asdict(run), indent=1, ensure_ascii=False).encode())
    return run


def record_state(store: Store, name: str, state: RunState, message: str = "", **facts: Any) -> Run:
    """Write a run's state and what is known of it (references, counts, seconds) into its manifest.

    What is known of references and counts already stays, unless it is given anew.
    """
    run = read_run(store, name)
    facts["references"] = {**run.references, **facts.get("references", {})}
    facts["counts"] = {**run.counts, **facts.get("counts", {})}
    return save_run(store, replace(run, state=state, message=message, **facts))


def read_run(store: Store, name: str) -> Run:
    """The manifest of a run.

    Raises UsageError listing the runs that are there, StoreError for a manifest that this version does not understand.
    """
    path = f"{run_folder(name)}/manifest.json"
    try:
        fields = store.read_json(path)
    except FileNotFoundError:
        names = ", ".join(run.name for run in list_runs(store)) or "none"
        raise UsageError(f"run '{name}' is not in store {store.url}; runs there: {names}") from None
    return _checked(fields, store.uri(path))


def list_runs(store: Store) -> list[Run]:
    """All runs of a store, by name; one whose manifest can't be read is left out, and a warning says so."""
    manifests = [path.split("/") for path in store.list("runs")]
    names = sorted(parts[1] for parts in manifests if len(parts) == 3 and parts[2] == "manifest.json")
    runs = []
    for name in names:
        try:
            runs.append(read_run(store, name))
        except StoreError as error:
            if error.is_transient:  # the store is away, not the manifest damaged
                raise
            logger.warning("run '%s' is left out: %s", name, error)
    return runs


def list_selections(store: Store, name: str) -> list[dict[str, Any]]:
    """The manifests of a run's selections, oldest first."""
    paths = [path for path in store.list(f"{run_folder(name)}/selections") if path.endswith("/manifest.json")]
    return sorted((store.read_json(path) for path in paths), key=lambda item: (item["created_at"], item["name"]))


def _checked(found: Any, address: str) -> Run:
    known = {item.name: item for item in dataclass_fields(Run)}
    if not isinstance(found, dict):
        raise StoreError(f"{address} is no manifest of a run: it holds {type(found).__name__}; move it away")
    wrong = [f"unknown field {name}" for name in found if name not in known]
    wrong += [
        f"no field {name}"
        for name, item in known.items()
        if name not in found and item.default is MISSING and item.default_factory is MISSING
    ]
    if "state" in found and found["state"] not in list(RunState):
        wrong.append(f"unknown state {found['state']}")
    if wrong:
        raise StoreError(
            f"{address} is not a manifest that this version understands ({', '.join(wrong)}): use the version of "
            f"nuggets that wrote it, this is {versions().get('nuggets', 'an unknown one')}"
        )
    return Run(**{**found, "state": RunState(found["state"])})


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a score may depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
