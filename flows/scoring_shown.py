"""Cells that are scored, as the UI shows them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from flows.meter import CellsMeter
from flows.progress_artifact import shown

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
