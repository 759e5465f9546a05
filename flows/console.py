"""What a command shows of a run while it goes on: a bar on a terminal, plain lines otherwise."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flows.meter import CellsMeter

_LINE_SECONDS = 15.0


class RunDisplay(logging.Handler):
    """Shows the core's progress records, and its warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(file=sys.stderr, soft_wrap=True, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._bar: TaskID | None = None
        self._meter = CellsMeter()
        self._last_line = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        if hasattr(record, "cells_computed"):
            self._count(record.cells_to_compute, record.cells_computed)  # type: ignore[attr-defined]
        else:
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            self._console.print(prefix + record.getMessage())

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress.live.is_started:
            self._progress.stop()
        super().close()

    def _count(self, more: int, computed: int) -> None:
        self._meter.count(more, computed)
        if not self._meter.total:
            return
        if self._bar is None and self._console.is_terminal:
            self._bar = self._progress.add_task("cells", total=self._meter.total)
        if self._bar is not None:
            if not self._progress.live.is_started:  # another round
                self._progress.start()
            self._progress.update(self._bar, total=self._meter.total, completed=self._meter.done)
            if self._meter.done >= self._meter.total:
                self._progress.stop()
        elif computed and not self._last_line:
            self._last_line = time.monotonic()
        elif computed and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(self._meter.line())


def show_progress() -> RunDisplay:
    """Show the core's progress from here on."""
    display = RunDisplay()
    for name in ("nuggets", "nuggets.progress.cells"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(display)
    return display


def hide_progress(display: RunDisplay) -> None:
    """Stop showing it."""
    for name in ("nuggets", "nuggets.progress.cells"):
        logging.getLogger(name).removeHandler(display)
    display.close()


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show the core's warnings as such while this lasts, for commands that run no flow."""
    display = RunDisplay()
    display.setLevel(logging.WARNING)
    logger = logging.getLogger("nuggets")
    logger.addHandler(display)
    try:
        yield
    finally:
        logger.removeHandler(display)
        display.close()
