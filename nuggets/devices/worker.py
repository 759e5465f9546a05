"""The program of a worker process: run jobs one after another, send back their results and what they log.

    python -m nuggets.devices.worker FD

Started by nuggets.devices.worker_handle, with a connection to it at file descriptor FD. While a job runs, a thread
sends a heartbeat every half second.
"""

import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import Any

from nuggets.stopping import request_stop

HEARTBEAT = None  # the message; a job's result comes as a tuple of one
_HEARTBEAT_SECONDS = 0.5
_LOGGERS = ("nuggets", "nuggets.progress.cells", "nuggets.progress.phase")
_GRACE_SECONDS = 30.0  # for storing what is computed after the starting process has ended


class _Sender(QueueHandler):
    """Sends messages to the starting process from any thread, log records among them."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(queue.SimpleQueue())
        self._connection = connection
        self._sending = threading.Lock()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record, which `prepare` has made picklable."""
        self.send(record)

    def send(self, message: object) -> None:
        """Send a whole message; request a stop if the other end is closed."""
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:
                request_stop()


def main() -> None:
    """Run jobs until the connection closes."""
    # The starting process handles these signals and forwards a request to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    sender = _Sender(connection)
    busy = threading.Event()
    threading.Thread(target=_listen, args=(connection, jobs), daemon=True).start()
    threading.Thread(target=_beat, args=(sender, busy), daemon=True).start()
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(sender)
    while job := jobs.get():
        busy.set()
        result = _result(job)
        busy.clear()
        sender.send((result,))


def _listen(connection: Connection, jobs: "queue.SimpleQueue[bytes]") -> None:
    """Receive jobs and requests to stop (empty messages) while the main thread computes."""
    try:
        while True:
            if message := connection.recv_bytes():
                jobs.put(message)
            else:
                request_stop()
    except (EOFError, OSError):
        request_stop()
        jobs.put(b"")
        time.sleep(_GRACE_SECONDS)
        os._exit(1)


def _beat(sender: _Sender, busy: threading.Event) -> None:
    """Send heartbeats during jobs only: between two jobs the other end reads nothing, and the connection would fill."""
    while busy.wait():
        sender.send(HEARTBEAT)
        time.sleep(_HEARTBEAT_SECONDS)


def _result(job: bytes) -> Any:
    """What a job returns, or the error that it raises."""
    try:
        function, arguments = pickle.loads(job)  # inside, because it imports what the function needs
        return function(*arguments)
    except Exception as error:
        error.add_note("In the worker process:\n" + traceback.format_exc())
        return _picklable(error)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # errors of some libraries can be pickled but not unpickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    main()
