"""Sweeping a store: what killed writers have left, work lists that nobody reads any more, blocks not yet joined."""

from collections import Counter
from dataclasses import dataclass

from nuggets.cells.folders import compact, list_blocks
from nuggets.runs.attempts import observed_state
from nuggets.runs.manifest import RunState, list_runs, run_folder
from nuggets.store.store import Store

_WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Garbage:
    """What lies in a store without being of use, and blocks that were set aside for a person to look at."""

    leftovers: tuple[str, ...]
    worklists: tuple[str, ...]
    scattered: tuple[str, ...]  # folders with more than one block
    damaged: tuple[str, ...]


def find_garbage(store: Store, *, older_than: float) -> Garbage:
    """Look through a store; files of writers are taken for left behind after `older_than` seconds.

    Work lists of ended runs are so after a week, or after `older_than` if that is longer: while `reselect` or
    `score-shards` compute more of a run, its manifest says that it has ended, and their tasks have lists to read.
    """
    folders = Counter(path.rpartition("/")[0] for path in list_blocks(store, "cells"))
    done = [run.name for run in list_runs(store) if observed_state(store, run) != RunState.RUNNING]
    unread = max(older_than, _WEEK)
    return Garbage(
        # A file from the future (a clock was set back) is as young as can be, and stays.
        leftovers=tuple(sorted(path for path, age in store.leftovers().items() if age > older_than)),
        worklists=tuple(
            path for name in done for path, age in store.ages(f"{run_folder(name)}/worklists").items() if age > unread
        ),
        scattered=tuple(sorted(folder for folder, blocks in folders.items() if blocks > 1)),
        damaged=tuple(store.list("damaged")),
    )


def sweep_garbage(store: Store, garbage: Garbage, *, damaged: bool) -> None:
    """Delete leftovers and work lists, and join blocks; delete damaged ones only if asked to. No cell is lost."""
    for path in (*garbage.leftovers, *garbage.worklists, *(garbage.damaged if damaged else ())):
        store.remove(path)
    for folder in garbage.scattered:
        compact(store, folder)
