"""What a person sees on a terminal while a run scores."""

import os
import pty
import re
import subprocess
import sys

RUN = """
import time
from flows.cli.console import hide_progress, show_progress
from nuggets.progress import report_cells, report_round, report_stage

display = show_progress()
report_stage("cells: 160 in the full table")
for number, (cells, at_most) in enumerate([(32, 160), (53, 128), (27, 40), (8, 16)]):
    report_stage(f"round {number} begins")
    report_round(number, to_compute=cells, at_most=at_most)
    report_cells(computed=cells // 2)
    time.sleep(0.4)
    report_cells(computed=cells - cells // 2)
report_round(4, to_compute=0, at_most=0)
report_stage("cells: 120 computed")
hide_progress(display)
"""


def on_a_terminal(code: str) -> tuple[str, list[str]]:
    """All that a program writes to its terminal, and the lines that are shown when it has ended."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
    program = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # raised by Linux when the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    assert program.wait() == 0, written.decode()
    text = written.decode()
    lines = [""]
    for part in re.findall(r"\x1b\[[0-9?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            lines.append("")
        elif part.endswith("A") and part.startswith("\x1b"):
            lines.pop()
        elif part == "\x1b[2K":
            lines[-1] = ""
        elif not part.startswith(("\x1b", "\r")):
            lines[-1] += part
    return text, [line for line in lines if line]


def test_one_bar_for_all_rounds_shows_the_most_cells_to_compute() -> None:
    written, left = on_a_terminal(RUN)
    assert left[:-1] == [
        "cells: 160 in the full table",
        *(f"round {number} begins" for number in range(4)),
        "cells: 120 computed",
    ]
    assert re.fullmatch(r"scoring, round 3 ━+ 120 of 120 cells, [0-9.]+ cells/s", left[-1].rstrip()), left
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    assert "16 of at most 160 cells" in bare
    assert re.search(r"scoring, round 2 .* of at most 125 cells, [0-9.]+ cells/s, at most [0-9]+ s left", bare)
    assert "100 %" not in bare and "32 of 32" not in bare
