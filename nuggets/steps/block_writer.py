"""Computed cells are written as blocks while scoring continues.

A thread writes one block at a time, so that a slow store does not stop the device. A killed process loses at most the
block that is being written and the rows of the next one: 64 candidates, or 30 seconds of work.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nuggets.cells.blocks import CellBlock, write_block
from nuggets.store.store import Store

# A block is written when it has this many candidates, or this long after the last one; the task's end joins them. Two
# such blocks are at risk at a time: one is being written while the next one fills.
BLOCK_SECONDS = 15.0
BLOCK_CANDIDATES = 32

_Rows = list[tuple[str, NDArray[np.float32]]]  # candidate and its cells, NaN where there is none


class BlockWriter:
    """Takes rows and writes them as blocks; leaving its context writes the rest and waits for it.

    Where a block could not be written, `add` or `write_if_due` raises the store's error, and leaving tries all rows
    that are not stored once more.
    """

    def __init__(self, store: Store, folder: str, anchor_ids: Sequence[str]) -> None:
        self._store = store
        self._folder = folder
        self._anchor_ids = tuple(anchor_ids)
        self._rows: _Rows = []
        self._in_flight: tuple[Future[None], _Rows] | None = None
        self._last_write = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="block writer")

    def add(self, candidate: str, values: NDArray[np.float32]) -> None:
        """A candidate's cells, NaN where there is none."""
        if not np.isnan(values).all():
            self._rows.append((candidate, values))

    def write_if_due(self) -> None:
        """Begin to write the rows if they are many or old; waits for the block before, if that is not stored yet."""
        if self._in_flight is not None and self._in_flight[0].done():
            self._settle()
        if len(self._rows) < BLOCK_CANDIDATES and time.monotonic() - self._last_write <= BLOCK_SECONDS:
            return
        self._settle()
        self._last_write = time.monotonic()
        if self._rows:
            # The context holds which S3 server is meant and which stop request counts.
            write = self._thread.submit(copy_context().run, self._write, self._rows)
            self._in_flight, self._rows = (write, self._rows), []

    def _write(self, rows: _Rows) -> None:
        candidates, values = zip(*rows, strict=True)
        write_block(self._store, self._folder, CellBlock(candidates, self._anchor_ids, np.array(values)))

    def _settle(self) -> None:
        """Wait for the block that is being written; if that fails, its rows are queued again."""
        if self._in_flight is None:
            return
        (write, rows), self._in_flight = self._in_flight, None
        try:
            write.result()
        except BaseException:
            self._rows = rows + self._rows
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Store what is not stored yet, also when scoring has failed or was stopped: these numbers cost compute."""
        self._thread.shutdown(wait=True)
        try:
            self._settle()
        except Exception:  # its rows are written once more, below
            pass
        if self._rows:
            self._write(self._rows)
