"""Scoring as the UI shows it: a progress artifact that is brought up to date every few seconds."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.meter import CellsMeter

_SECONDS = 5.0  # between two updates; each costs the server a write
_CELLS = "nuggets.progress.cells"

logger = logging.getLogger(__name__)


class _Shown(logging.Handler):
    def __init__(self, artifact: UUID, cells: int) -> None:
        super().__init__()
        self._artifact = artifact
        self._meter = CellsMeter(cells)
        self._last = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record, and show what it comes to, if that was not done a moment ago."""
        self._meter.count(record.cells_to_compute, record.cells_computed)  # type: ignore[attr-defined]
        if time.monotonic() - self._last > _SECONDS:
            self.show()

    def show(self) -> None:
        """Show how things stand; an API that does not answer is no reason to stop scoring."""
        self._last = time.monotonic()
        try:
            update_progress_artifact(self._artifact, self._meter.percent, self._meter.line())
        except Exception as error:
            logger.debug("the progress artifact could not be updated: %s", error)


@contextmanager
def scoring_shown(cells: int) -> Iterator[None]:
    """Show the cells that are scored while this lasts: the `cells` of the first round, and those that others add."""
    if not cells:
        yield
        return
    artifact = create_progress_artifact(0.0, key="scoring", description="no cell has been scored yet")
    shown = _Shown(cast(UUID, artifact), cells)  # a coroutine only where an event loop runs
    records = logging.getLogger(_CELLS)
    records.setLevel(logging.INFO)
    records.addHandler(shown)
    try:
        yield
    finally:
        records.removeHandler(shown)
        shown.show()
