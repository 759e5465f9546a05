"""The starting process's end of a worker: start it, give it a job, watch it, replace it."""

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging import LogRecord, getLogger
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from nuggets.devices.devices import Device
from nuggets.devices.worker import HEARTBEAT
from nuggets.errors import Interrupted, NuggetsError, OutOfMemory
from nuggets.stopping import stop_requested

T = TypeVar("T")
_POLL_SECONDS = 0.5


class ProcessLost(RuntimeError):
    """A worker process has died or hung. Its stored cells are kept, and the same job may succeed on another device."""


@dataclass
class Worker:
    """A device and its process, which is started for the first job and again after it was lost.

    Detected failures of a job's process:

    - it died: its connection closes;
    - it is stopped, or hangs in native code that holds the interpreter's lock: its heartbeats end;
    - its computation hangs, for example on a GPU, while the interpreter runs: heartbeats arrive, but no log record and
      no progress report for `stalled_after` seconds. During a `quiet_phase`, such as loading a model, none is expected.

    A hang within a quiet phase that leaves the interpreter running is not detected.
    """

    device: Device
    failures: int = 0  # in a row
    process: "subprocess.Popen[bytes] | None" = None
    connection: Connection | None = None

    def run(self, function: Callable[..., T], arguments: tuple[Any, ...], stalled_after: float) -> T:
        """What a job returns or raises. Raises ProcessLost, or Interrupted where a stop was requested before."""
        connection = self._started()
        try:
            connection.send_bytes(pickle.dumps((function, arguments)))
        except OSError:
            raise self._lost() from None
        result = self._result(connection, stalled_after)
        if isinstance(result, BaseException):
            # After some errors of a GPU whatever its process tries fails; after OutOfMemory its passes are tiny.
            if isinstance(result, OutOfMemory) or not isinstance(result, NuggetsError):
                self.end()
            raise result
        return result  # type: ignore[no-any-return]

    def _started(self) -> Connection:
        if self.connection is not None and self.process is not None and self.process.poll() is None:
            return self.connection
        self.end()
        ours, theirs = socket.socketpair()
        with theirs:
            # Not multiprocessing's own start: it imports the main module again, which is Prefect under a worker.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nuggets.devices.worker", str(theirs.fileno())],
                env=os.environ | dict(self.device.environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches this process only, which forwards a request to stop
            )
        self.connection = Connection(ours.detach())
        return self.connection

    def _result(self, connection: Connection, stalled_after: float) -> Any:
        """The job's result; log records that come before it are handled here as if they were logged here."""
        last_message = last_progress = time.monotonic()
        quiet = stop_sent = False
        timeout = _POLL_SECONDS
        while True:
            if stop_requested() and not stop_sent:
                stop_sent = True
                self._send_stop(connection)
            if connection.poll(timeout):
                timeout = 0.0  # read all that has come before looking at the clock: this process may have been stopped
                message = self._receive(connection)
                last_message = time.monotonic()
                if isinstance(message, tuple):
                    return message[0]
                if message is not HEARTBEAT:
                    last_progress = last_message
                    quiet = getattr(message, "quiet", quiet)
                    _handle(message)
                continue
            timeout = _POLL_SECONDS
            now = time.monotonic()
            if now - last_message > stalled_after:
                raise self._lost(f"has sent no heartbeat for {stalled_after:g} seconds")
            if not quiet and now - last_progress > stalled_after:
                raise self._lost(f"has made no progress for {stalled_after:g} seconds")

    def _receive(self, connection: Connection) -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError):
            raise self._lost() from None

    def _send_stop(self, connection: Connection) -> None:
        try:
            connection.send_bytes(b"")
        except OSError:
            raise self._lost() from None

    def _lost(self, what: str = "") -> Exception:
        """End the process; return the error that names how it was lost."""
        process = self.process
        assert process is not None
        if not what:
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                what = "has closed its connection"
            else:
                memory = " (killed: out of memory?)" if code == -9 else ""
                what = f"has ended with exit code {code}{memory}"
        self.end()
        if stop_requested():
            return Interrupted(f"stopped on request, and the process on {self.device.name} {what}")
        return ProcessLost(
            f"the process on {self.device.name} {what}. What it had stored is kept, and another process does the rest"
        )

    def end(self) -> None:
        """Kill the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.connection is not None:
            self.connection.close()
        self.process = self.connection = None


def _handle(record: LogRecord) -> None:
    logger = getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
