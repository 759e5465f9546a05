"""The other end of a device's process: does what it is told, one job after another, and passes on what is logged.

    python -m nuggets.devices.worker FD

Started by nuggets.devices.worker_pool, with a connection to it at file descriptor FD.
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

_LOGGERS = ("nuggets", "nuggets.progress.cells")  # what people and progress bars read
_GRACE_SECONDS = 30.0  # for storing what is computed when whoever started us has gone; then a hung device is let go


class _Answers(QueueHandler):
    """Sends log records, and answers between them."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(queue.SimpleQueue())
        self._connection = connection
        self._sending = threading.Lock()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record, made picklable before."""
        self.send(record)

    def send(self, message: object) -> None:
        """Send a message whole, whatever other threads send; if nobody is there any more, it does not matter."""
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:
                request_stop()


def main() -> None:
    """Do jobs until the connection closes."""
    # Whoever started us hears of signals, too, and tells us what to do: store what there is, then end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, jobs), daemon=True).start()
    answers = _Answers(connection)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(answers)
    while job := jobs.get():
        answers.send((_result(job),))


def _listen(connection: Connection, jobs: "queue.SimpleQueue[bytes]") -> None:
    """Hear of jobs and of a wish to stop while the main thread computes."""
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


def _result(job: bytes) -> Any:
    """What a job returns, or the error that it raised."""
    try:
        function, arguments = pickle.loads(job)  # here, because it imports what the function needs
        return function(*arguments)
    except Exception as error:
        error.add_note("In the device's process:\n" + traceback.format_exc())
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some libraries' errors can be sent but not received
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    main()
