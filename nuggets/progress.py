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
