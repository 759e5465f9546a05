"""The manifest of a run: its configuration, its state, and its references to what all runs share.

```
runs/<name>/manifest.json                     configuration, digests, references, counts, timings, state; rewritten
runs/<name>/heartbeat.json                    the last sign of life of the flow that works on the run (attempts.py)
runs/<name>/engine_paths/                     how the scoring engine computed the cells: a file for each path
runs/<name>/worklists/                        what each scoring task computes; deleted by nuggets gc a week later
runs/<name>/golden.parquet                    the golden score of each candidate, or its bounds; replaced when more
                                              cells are stored
runs/<name>/anchors.parquet                   the wins of each anchor; belongs to golden.parquet
runs/<name>/selections/<cut>/<scores>/        selected.jsonl scores.parquet scores.png anchors.parquet report.md
                                              manifest.json; never changed (selections.py)
```
"""

import logging
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata
from typing import Any, ClassVar

from nuggets.errors import StoreError, StoreUnavailable, UsageError
from nuggets.runs.names import taken_name
from nuggets.store.records import read_record, write_record
from nuggets.store.store import Store

logger = logging.getLogger(__name__)
PACKAGES = ("nuggets", "torch", "transformers", "sentence-transformers", "scikit-learn", "numpy", "pandas", "prefect")


class RunState(StrEnum):
    """The state of a run. LOST is shown in place of RUNNING when the flow has been killed; it is never stored."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Run:
    """The manifest of a run."""

    FORMAT: ClassVar[int] = 1
    name: str
    state: RunState
    created_at: str  # ISO 8601, UTC
    updated_at: str
    config: dict[str, Any]
    identity: dict[str, Any]  # what determines the scores: equal in all attempts at this run
    inputs: dict[str, Any] = field(default_factory=dict)  # names and digests of pool, model, encoder
    references: dict[str, Any] = field(default_factory=dict)  # scoring key, pool id, paths in the store
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # wall time per stage of the last attempt
    versions: dict[str, str] = field(default_factory=dict)
    message: str = ""
    attempt: str = ""  # the flow that owns the state


def run_folder(name: str) -> str:
    """The folder of a run's own artifacts."""
    return f"runs/{name}"


def golden_path(name: str) -> str:
    """The path of a run's golden scores."""
    return f"{run_folder(name)}/golden.parquet"


def open_run(
    store: Store, name: str, *, config: Mapping[str, Any], identity: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Run:
    """Start a run, or continue the run of this name, as its newest attempt.

    Raises UsageError if the existing run has another identity: its scores and the new ones would not be comparable.
    """
    now = _now()
    if store.exists(_manifest_path(name)):
        run = read_run(store, name)
        if any(run.identity.get(key) != identity.get(key) for key in {**run.identity, **identity}):
            stored = {"identity": run.identity, "inputs": run.inputs}
            raise UsageError(taken_name(name, stored, {"identity": identity, "inputs": inputs}))
        run = replace(run, config=dict(config))
    else:
        run = Run(name, RunState.RUNNING, now, now, dict(config), dict(identity))
    return start_attempt(store, replace(run, inputs=dict(inputs), versions=versions()))


def start_attempt(store: Store, run: Run) -> Run:
    """Store a run as running and as owned by a new attempt."""
    return save_run(store, replace(run, state=RunState.RUNNING, message="", attempt=uuid.uuid4().hex[:12]))


def save_run(store: Store, run: Run) -> Run:
    """Store a run's manifest with the current time."""
    run = replace(run, updated_at=_now())
    write_record(store, _manifest_path(run.name), run)
    return run


def record_state(
    store: Store, name: str, state: RunState, message: str = "", *, attempt: str | None = None, **facts: Any
) -> Run:
    """Record a run's state and facts (references, counts, seconds) in its manifest; recorded facts are kept.

    With `attempt`, the state is recorded only if this attempt still owns the run. An attempt that has lost the run to
    a newer one records its references only: they follow from the run's identity, and its other tasks need them.
    """
    run = read_run(store, name)
    references = {**run.references, **facts.pop("references", {})}
    if attempt is not None and attempt != run.attempt:
        if state is not run.state:
            logger.warning("run '%s': state '%s' is not recorded: a newer attempt works on this run", name, state)
        return run if references == run.references else save_run(store, replace(run, references=references))
    counts = {**run.counts, **facts.pop("counts", {})}
    return save_run(store, replace(run, state=state, message=message, references=references, counts=counts, **facts))


def read_run(store: Store, name: str) -> Run:
    """The manifest of a run.

    Raises UsageError with the names of the store's runs if there is no such run, StoreError if this version does not
    understand the manifest.
    """
    try:
        return read_record(store, _manifest_path(name), Run)
    except FileNotFoundError:
        names = ", ".join(run.name for run in list_runs(store)) or "none"
        raise UsageError(f"run '{name}' is not in store {store.url}; runs there: {names}") from None


def list_runs(store: Store) -> list[Run]:
    """All runs of a store, by name. Logs a warning and skips a run whose manifest is damaged or not understood."""
    manifests = [path.split("/") for path in store.list("runs")]
    names = sorted(parts[1] for parts in manifests if len(parts) == 3 and parts[2] == "manifest.json")
    runs = []
    for name in names:
        try:
            runs.append(read_run(store, name))
        except StoreUnavailable:  # the manifest may be sound
            raise
        except StoreError as error:
            logger.warning("run '%s' is left out: %s", name, error)
    return runs


def _manifest_path(name: str) -> str:
    return f"{run_folder(name)}/manifest.json"


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a score may depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
