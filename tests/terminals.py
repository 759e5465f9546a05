"""Processes in the foreground of a terminal each, which a test can type Ctrl-C into or close."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class InTerminal:
    """A process, its terminal, and what it has written there."""

    process: "subprocess.Popen[bytes]"
    master: int
    written: bytearray = field(default_factory=bytearray)
    _closing: threading.Event = field(default_factory=threading.Event)
    _reader: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return self.written.decode(errors="replace")

    def type_ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def close(self) -> None:
        """Close the terminal. SIGHUP comes twice to the process, as from kernel and shell."""
        self._closing.set()
        self._reader.join()
        os.close(self.master)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGHUP)

    def _read(self) -> None:
        while not self._closing.is_set():
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.written += os.read(self.master, 1 << 16)
                except OSError:  # the process has ended
                    return


def start_in_terminal(command: Sequence[str], environment: Mapping[str, str]) -> InTerminal:
    """Start a command in a new session and a new terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    return InTerminal(process, master)
