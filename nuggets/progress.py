"""Progress as log records. Handlers of these loggers show lines or a bar; without handlers nothing is shown."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

stage_logger = logging.getLogger("nuggets.progress")
cells_logger = logging.getLogger("nuggets.progress.cells")
cells_logger.propagate = False  # several records a second: for a bar, not for a log
phase_logger = logging.getLogger("nuggets.progress.phase")
phase_logger.propagate = False  # for the process that watches for hangs, not for a log


def report_stage(message: str) -> None:
    """Log one line about a result."""
    stage_logger.info(message)


def report_cells(*, to_compute: int = 0, computed: int = 0) -> None:
    """Report how many more cells are to be computed, or were computed since the last report."""
    cells_logger.info("cells", extra={"cells_to_compute": to_compute, "cells_computed": computed})


def report_round(number: int, *, to_compute: int, at_most: int) -> None:
    """Report the start of a round: its cells, and the most that it and later rounds can compute."""
    facts = {"cells_to_compute": to_compute, "cells_computed": 0, "cells_round": number, "cells_at_most": at_most}
    cells_logger.info("round", extra=facts)


def report_step() -> None:
    """Report progress to the hang detection only, without a log line or a count."""
    phase_logger.info("step")


@contextmanager
def quiet_phase(name: str) -> Iterator[None]:
    """Announce work that cannot report progress, such as loading a model: meanwhile silence does not mean a hang."""
    phase_logger.info("begin: %s", name, extra={"quiet": True})
    try:
        yield
    finally:
        phase_logger.info("end: %s", name, extra={"quiet": False})


def pluralize(count: int, what: str) -> str:
    """A number of things: 1 cell, 2 cells."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
