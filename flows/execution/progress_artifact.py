"""The progress of a stage in the Prefect UI: an artifact that a thread updates every few seconds."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.execution.cells_meter import CellsMeter

UPDATE_SECONDS = 5.0  # between two updates; each costs the server a write
LAST_SECONDS = 10.0  # for the last update
logger = logging.getLogger(__name__)
Progress = Callable[[], tuple[float, str]]  # of a stage: 0 to 100, and a line of text


@contextmanager
def shown(stage: str, progress: Progress) -> Iterator[None]:
    """Show the progress of a stage while this lasts.

    A thread sends the updates and logs the errors of the API, so that computing never waits for the UI.
    """
    ended = threading.Event()
    thread = threading.Thread(target=copy_context().run, args=(_show, stage, progress, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LAST_SECONDS)


def _show(stage: str, progress: Progress, ended: threading.Event) -> None:
    artifact: UUID | None = None
    last = False
    while not last:
        last = ended.is_set()
        percent, text = progress()
        try:
            if artifact is None:  # a coroutine only where an event loop runs
                artifact = cast(UUID, create_progress_artifact(percent, key=stage, description=text))
            else:
                update_progress_artifact(artifact, percent, text)
        except Exception as error:
            logger.debug("the progress of stage %s could not be shown: %s", stage, error)
        ended.wait(UPDATE_SECONDS)


_CELLS = "nuggets.progress.cells"


class _Count(logging.Handler):
    """Counts the cells that tasks report. It does nothing else, because the tasks wait for it."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self._meter = CellsMeter(cells)

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record."""
        self._meter.count(record.cells_to_compute, record.cells_computed)  # type: ignore[attr-defined]

    def progress(self) -> tuple[float, str]:
        """The share of the cells that are scored, and a line of text."""
        return self._meter.percent, self._meter.line()


@contextmanager
def scoring_shown(cells: int) -> Iterator[None]:
    """Show the progress of scoring while this lasts: the `cells` of the first round, and those of later rounds."""
    if not cells:
        yield
        return
    count = _Count(cells)
    records = logging.getLogger(_CELLS)
    records.setLevel(logging.INFO)
    records.addHandler(count)
    try:
        with shown("scoring", count.progress):
            yield
    finally:
        records.removeHandler(count)
