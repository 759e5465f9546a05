"""A stage as the UI shows it: a progress artifact that is brought up to date every few seconds."""

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
LAST_SECONDS = 10.0  # for what is shown at the end
logger = logging.getLogger(__name__)
Look = Callable[[], tuple[float, str]]  # how a stage stands: 0 to 100, and words


@contextmanager
def shown(stage: str, look: Look) -> Iterator[None]:
    """Show how a stage stands while this lasts.

    On a thread of its own, with the API's errors as its own: whoever computes waits for no page.
    """
    ended = threading.Event()
    page = threading.Thread(target=copy_context().run, args=(_show, stage, look, ended), daemon=True)
    page.start()
    try:
        yield
    finally:
        ended.set()
        page.join(LAST_SECONDS)


def _show(stage: str, look: Look, ended: threading.Event) -> None:
    artifact: UUID | None = None
    last = False
    while not last:
        last = ended.is_set()
        percent, words = look()
        try:
            if artifact is None:  # a coroutine only where an event loop runs
                artifact = cast(UUID, create_progress_artifact(percent, key=stage, description=words))
            else:
                update_progress_artifact(artifact, percent, words)
        except Exception as error:
            logger.debug("the progress of stage %s could not be shown: %s", stage, error)
        ended.wait(UPDATE_SECONDS)


_CELLS = "nuggets.progress.cells"


class _Count(logging.Handler):
    """Counts what tasks report. Nothing else: they wait until it is done."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self._meter = CellsMeter(cells)

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record."""
        self._meter.count(record.cells_to_compute, record.cells_computed)  # type: ignore[attr-defined]

    def look(self) -> tuple[float, str]:
        """How things stand."""
        return self._meter.percent, self._meter.line()


@contextmanager
def scoring_shown(cells: int) -> Iterator[None]:
    """Show the cells that are scored while this lasts: the `cells` of the first round, and those that others add."""
    if not cells:
        yield
        return
    count = _Count(cells)
    records = logging.getLogger(_CELLS)
    records.setLevel(logging.INFO)
    records.addHandler(count)
    try:
        with shown("scoring", count.look):
            yield
    finally:
        records.removeHandler(count)
