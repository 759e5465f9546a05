"""Killed at random moments, over and over: the slow tier, `make slow` (benchmarks/crash.py does it 200 times)."""

import subprocess
import sys
from pathlib import Path

import pytest

CRASH = Path(__file__).parent.parent / "benchmarks" / "crash.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("racing", "kills"), [("on", 13), ("off", 12)])
def test_nothing_is_lost_or_computed_twice_when_a_run_is_killed(racing: str, kills: int, tiny_model: Path) -> None:
    size = ["--examples", "120", "--anchors", "20", "--racing", racing, "--kills", str(kills)]
    done = subprocess.run(
        [sys.executable, str(CRASH), "--model", str(tiny_model), *size], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
