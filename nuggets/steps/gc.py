"""Garbage collection in a store: files of killed writers, work lists of ended runs, joined notes, scattered blocks."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from nuggets.cells.folders import compact, list_blocks
from nuggets.cells.prompt_notes import ANCHOR_NOTES, POOL_NOTES
from nuggets.runs.attempts import observed_state
from nuggets.runs.manifest import RunState, list_runs, run_folder
from nuggets.store.store import Store

_WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Garbage:
    """Paths of files that can be deleted, of folders whose blocks can be joined, and of quarantined blocks."""

    leftovers: tuple[str, ...]
    worklists: tuple[str, ...]
    notes: tuple[str, ...]  # on the prompts of single shards, joined to those of their pool
    scattered: tuple[str, ...]  # folders with more than one block
    damaged: tuple[str, ...]


def find_garbage(store: Store, *, older_than: float) -> Garbage:
    """The garbage of a store. An incomplete file counts as left by a killed writer after `older_than` seconds.

    Work lists of ended runs count after a week, or after `older_than` if that is longer: while `reselect` or
    `score-shards` compute more cells of an ended run, their tasks read its work lists.
    """
    folders = Counter(path.rpartition("/")[0] for path in list_blocks(store, "cells"))
    ended = [run.name for run in list_runs(store) if observed_state(store, run) != RunState.RUNNING]
    worklist_age = max(older_than, _WEEK)
    return Garbage(
        # After a clock was set back, a file may have a time in the future: its age is negative, and it stays.
        leftovers=tuple(sorted(path for path, age in store.leftovers().items() if age > older_than)),
        worklists=tuple(
            path
            for name in ended
            for path, age in store.ages(f"{run_folder(name)}/worklists").items()
            if age > worklist_age
        ),
        notes=tuple(_joined_notes(store, older_than=older_than)),
        scattered=tuple(sorted(folder for folder, blocks in folders.items() if blocks > 1)),
        damaged=tuple(store.list("damaged")),
    )


def _joined_notes(store: Store, *, older_than: float) -> Iterator[str]:
    """Notes on single shards that are in those of their pool. Another run may join them for a while yet."""
    ages = store.ages("prompts")
    joined = {
        path.rpartition("/")[0] for path, age in ages.items() if path.endswith(f"/{POOL_NOTES}") and age > older_than
    }
    kept = (f"/{POOL_NOTES}", f"/{ANCHOR_NOTES}")
    return (path for path in ages if path.rpartition("/")[0] in joined and not path.endswith(kept))


def sweep_garbage(store: Store, garbage: Garbage, *, damaged: bool) -> None:
    """Delete leftovers, work lists and joined notes, and join blocks; with `damaged`, delete quarantined blocks.

    No cell is lost.
    """
    deleted = (*garbage.leftovers, *garbage.worklists, *garbage.notes)
    for path in (*deleted, *(garbage.damaged if damaged else ())):
        store.remove(path)
    for folder in garbage.scattered:
        compact(store, folder)
