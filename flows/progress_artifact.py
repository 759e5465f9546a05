"""Stages as the UI shows them: progress artifacts that are brought up to date every few seconds."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture, as_completed, wait

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
        """Show how things stand."""
        self._last = time.monotonic()
        _update(self._artifact, self._meter.percent, self._meter.line())


def wait_shown(stage: str, futures: Sequence[PrefectFuture[Any]]) -> None:
    """Wait for the tasks of a stage, and show how many are done if there are several."""
    if len(futures) < 2:
        wait(list(futures))
        return
    artifact = cast(UUID, create_progress_artifact(0.0, key=stage, description=f"0 of {len(futures)} tasks are done"))
    last = time.monotonic()
    for done, future in enumerate(as_completed(list(futures)), start=1):
        future.wait()  # done it is, but its state is known here only after this
        if done == len(futures) or time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            _update(artifact, 100 * done / len(futures), f"{done} of {len(futures)} tasks are done")


def _update(artifact: UUID, percent: float, words: str) -> None:
    """Bring an artifact up to date; an API that does not answer is no reason to stop."""
    try:
        update_progress_artifact(artifact, percent, words)
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
