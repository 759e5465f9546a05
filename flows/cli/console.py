"""What a command shows while a run continues: a progress bar on a terminal, lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from flows.execution.cells_meter import CellsMeter

_LINE_SECONDS = 15.0


class RunDisplay(logging.Handler):
    """Shows the core's progress records and warnings on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(file=sys.stderr, soft_wrap=True, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("scoring, round {task.fields[round]}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            console=self._console,
        )
        self._bar: TaskID | None = None
        self._meter = CellsMeter()
        self._round = 0
        self._last_line = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record. A terminal that was closed must not end the run."""
        with suppress(OSError):
            self._show(record)

    def _show(self, record: logging.LogRecord) -> None:
        if hasattr(record, "cells_computed"):
            self._meter.count(record.cells_to_compute, record.cells_computed)  # type: ignore[attr-defined]
            if hasattr(record, "cells_round"):
                self._meter.expect(record.cells_at_most)  # type: ignore[attr-defined]
                if record.cells_to_compute:  # type: ignore[attr-defined]
                    self._round = record.cells_round
            self._show_cells(computed=record.cells_computed)
        else:
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            self._console.print(prefix + record.getMessage())

    def close(self) -> None:
        """Stop the progress bar."""
        if self._bar is not None:  # stopping a bar that was never started writes an empty line
            self._progress.stop()
        super().close()

    def _show_cells(self, *, computed: int) -> None:
        if not self._meter.goal:
            return
        if self._console.is_terminal:
            self._move_bar()
        elif computed and not self._last_line:
            self._last_line = time.monotonic()
        elif computed and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(self._meter.line())

    def _move_bar(self) -> None:
        """One bar for all rounds. It ends with the display: the last round is known only afterwards."""
        if self._bar is None:
            self._bar = self._progress.add_task("", round=self._round)
            self._progress.start()
        self._progress.update(
            self._bar,
            total=self._meter.goal,
            completed=self._meter.done,
            description=self._meter.count_line(),
            round=self._round,
        )


def show_progress() -> RunDisplay:
    """Start to show the core's progress."""
    display = RunDisplay()
    for name in ("nuggets", "nuggets.progress.cells"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(display)
    return display


def hide_progress(display: RunDisplay) -> None:
    """Stop to show the core's progress."""
    for name in ("nuggets", "nuggets.progress.cells"):
        logging.getLogger(name).removeHandler(display)
    display.close()


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show the core's warnings while this lasts, for commands that run no flow."""
    display = RunDisplay()
    display.setLevel(logging.WARNING)
    logger = logging.getLogger("nuggets")
    logger.addHandler(display)
    try:
        yield
    finally:
        logger.removeHandler(display)
        display.close()
