"""Which run has this machine's GPUs: a second one waits, or both would run out of their memory."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from nuggets.progress import report_stage
from nuggets.stopping import check_stop

_LOOK_SECONDS = 1.0


def lock_gpus(names: Iterable[str], *, folder: Path | None = None) -> list[int]:
    """Wait until no other process has one of these GPUs, and have them until `unlock_gpus` or this process's end.

    `names` as in CUDA_VISIBLE_DEVICES: a GPU that one run calls 0 and another by its UUID is two to us. Raises
    Interrupted if someone asks to stop meanwhile.
    """
    claims: list[int] = []
    try:
        for name in sorted(set(names)):  # in one order, or two runs could wait for each other
            claims.append(_claim(name, folder or Path(tempfile.gettempdir())))
    except BaseException:
        unlock_gpus(claims)
        raise
    return claims


def unlock_gpus(claims: Iterable[int]) -> None:
    """Let others have them."""
    for claim in claims:
        os.close(claim)


def _claim(name: str, folder: Path) -> int:
    """A locked file, which the kernel unlocks however this process ends."""
    path = folder / f"nuggets-gpu-{name.replace('/', '_')}.lock"
    try:
        claim = os.open(path, os.O_RDONLY)  # it may be somebody else's, and a lock needs no more
    except FileNotFoundError:
        claim = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    told = False
    try:
        while True:
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return claim
            except BlockingIOError:
                if not told:
                    report_stage(f"GPU {name} is in use by another run on this machine: waiting for it")
                    told = True
            check_stop()
            time.sleep(_LOOK_SECONDS)
    except BaseException:
        os.close(claim)
        raise
