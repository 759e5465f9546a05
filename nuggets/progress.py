"""Progress as log records: whoever wants lines or a bar listens to these loggers, nobody has to."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

stage_logger = logging.getLogger("nuggets.progress")
cells_logger = logging.getLogger("nuggets.progress.cells")
cells_logger.propagate = False  # several records a second: for a bar, not for anyone's log
phase_logger = logging.getLogger("nuggets.progress.phase")
phase_logger.propagate = False  # for the process that watches for hangs, not for a log


def report_stage(message: str) -> None:
    """Say in a line what was done or found."""
    stage_logger.info(message)


def report_cells(*, to_compute: int = 0, computed: int = 0) -> None:
    """Say how many more cells are to be computed, or were computed since the last report."""
    cells_logger.info("cells", extra={"cells_to_compute": to_compute, "cells_computed": computed})


def report_round(number: int, *, to_compute: int, at_most: int) -> None:
    """Say that a round begins with so many cells, and how many at most it and those after it may compute."""
    facts = {"cells_to_compute": to_compute, "cells_computed": 0, "cells_round": number, "cells_at_most": at_most}
    cells_logger.info("round", extra=facts)


def report_step() -> None:
    """Report to the watch for hangs that the work goes on, where nothing is worth a line or a count."""
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
