"""Attempts: which flow owns a run, and whether that flow still works.

Each flow that works on a run is an attempt with an id. The manifest holds the id of the newest attempt, and only this
attempt changes the run's state. While it works, a thread stores a heartbeat; a flow that is killed can't record that it
has ended, so a reader treats a running run without heartbeats as lost.

```
manifest.json    state running, attempt A    written when A starts; A writes complete, failed or interrupted
heartbeat.json   attempt A, time             written every HEARTBEAT_SECONDS until A ends or loses the run
```
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from nuggets.errors import StoreError, StoreUnavailable
from nuggets.runs.manifest import Run, RunState, read_run, run_folder, start_attempt
from nuggets.store.records import read_record, write_record
from nuggets.store.store import Store

HEARTBEAT_SECONDS = 30.0
_MISSED = 2.5  # two heartbeats, and half of one for a slow store
_JOIN_SECONDS = 5.0  # at the end; a store that does not answer holds the thread for longer
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last heartbeat of the flow that works on a run."""

    FORMAT: ClassVar[int] = 1
    attempt: str
    at: str  # ISO 8601, UTC


def observed_state(store: Store, run: Run) -> RunState:
    """The state of a run as a reader sees it: LOST if it is running and two heartbeats are missing."""
    if run.state is not RunState.RUNNING:
        return run.state
    last_written = max(run.updated_at, _last_heartbeat(store, run.name))
    silence = datetime.now(UTC) - datetime.fromisoformat(last_written)
    return RunState.LOST if silence.total_seconds() > _MISSED * HEARTBEAT_SECONDS else RunState.RUNNING


def claim_run(store: Store, name: str) -> str | None:
    """Make a new attempt the owner of a run that no flow works on; returns its id, or None if a flow works on it."""
    run = read_run(store, name)
    if observed_state(store, run) is RunState.RUNNING:
        return None
    return start_attempt(store, run).attempt


@contextmanager
def heartbeat(store: Store, name: str, attempt: str) -> Iterator[None]:
    """Store heartbeats of an attempt from a thread while this lasts."""
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, name, attempt, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_JOIN_SECONDS)


def _beat(store: Store, name: str, attempt: str, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        try:
            if read_run(store, name).attempt != attempt:  # a newer attempt stores its own heartbeats
                return
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            write_record(store, _heartbeat_path(name), Heartbeat(attempt, now))
        except (StoreError, ValueError) as error:  # the flow itself reports a store that does not answer
            logger.debug("no heartbeat of run '%s': %s", name, error)


def _last_heartbeat(store: Store, name: str) -> str:
    """The time of the last heartbeat, empty if there is none that can be read."""
    try:
        return read_record(store, _heartbeat_path(name), Heartbeat).at
    except FileNotFoundError:
        return ""
    except StoreUnavailable:
        raise
    except StoreError:
        return ""  # damaged or of another format; the next heartbeat replaces it


def _heartbeat_path(name: str) -> str:
    return f"{run_folder(name)}/heartbeat.json"
