"""What signals do to a command: real signals to a small command in a terminal, which runs no flow."""

import os
import signal
import subprocess
import sys

import pytest
from orchestrated import wait_for
from terminals import InTerminal, start_in_terminal

# It computes until a stop is requested, then goes on for as long as storing takes, and writes to its terminal.
COMMAND = """
import sys, time
from flows.execution.signals import interrupted_exit_code, signals_stop
from nuggets.stopping import stop_requested
with signals_stop():
    print("computing", flush=True)
    while not stop_requested():
        time.sleep(0.05)
    for _ in range(int(sys.argv[1])):
        time.sleep(0.1)
        print("storing", flush=True)
sys.exit(interrupted_exit_code())
"""


def started(*, storing: float = 1, ignored: str = "") -> InTerminal:
    """The command, which needs some seconds to store."""
    ignore = f"import signal; signal.signal(signal.{ignored}, signal.SIG_IGN)\n" if ignored else ""
    command = [sys.executable, "-c", ignore + COMMAND, str(int(storing * 10))]
    terminal = start_in_terminal(command, os.environ)
    wait_for(lambda: "computing" in terminal.output, seconds=30)
    return terminal


def test_ctrl_c_lets_the_command_store_and_exits_with_130() -> None:
    terminal = started()
    terminal.type_ctrl_c()
    assert terminal.process.wait(timeout=30) == 130
    assert terminal.output.count("storing") == 10
    assert "stopping after the current work; Ctrl-C again to stop at once" in terminal.output


def test_sigterm_lets_the_command_store_and_exits_with_143() -> None:
    terminal = started()
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(timeout=30) == 143
    assert "SIGTERM again to stop at once" in terminal.output


def test_a_closed_terminal_lets_the_command_store_and_exits_with_129() -> None:
    terminal = started()
    terminal.close()  # two SIGHUPs, and every write to the terminal would be an error
    assert terminal.process.wait(timeout=30) == 129


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_command_at_once(second: signal.Signals) -> None:
    terminal = started(storing=600)
    terminal.type_ctrl_c()
    wait_for(lambda: "storing" in terminal.output, seconds=30)
    terminal.process.send_signal(second)
    assert terminal.process.wait(timeout=30) == 128 + second


@pytest.mark.parametrize("ignored", ["SIGHUP", "SIGINT"])
def test_a_signal_that_is_ignored_when_the_command_starts_stays_ignored(ignored: str) -> None:
    terminal = started(ignored=ignored)
    terminal.process.send_signal(signal.Signals[ignored])
    with pytest.raises(subprocess.TimeoutExpired):
        terminal.process.wait(timeout=1)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(timeout=30) == 143
