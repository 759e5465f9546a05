"""Progress as log records: whoever wants lines or a bar listens to these loggers, nobody has to."""

import logging

stage_logger = logging.getLogger("nuggets.progress")
cells_logger = logging.getLogger("nuggets.progress.cells")
cells_logger.propagate = False  # several records a second: for a bar, not for anyone's log


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


def pluralize(count: int, what: str) -> str:
    """A number of things: 1 cell, 2 cells."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
