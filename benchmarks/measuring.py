"""The costs of a piece of work: wall time, CPU time of all threads, and additional memory."""

import ctypes
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

_STATUS = Path("/proc/self/status")
_CPU_TIMES = Path("/proc/stat")  # cpu user nice system idle iowait irq softirq steal
_CLEAR = Path("/proc/self/clear_refs")
_RESET_HIGH_WATER_MARK = "5"  # written to clear_refs, it resets VmHWM


@dataclass(frozen=True, slots=True)
class Measurement:
    """The costs of some work and its sums; bytes above the use before, None where they can't be measured.

    `kept_bytes` are still in use afterwards: buffers that an algorithm holds on to for its next call.
    `cores_elsewhere`: how many cores other programs kept busy meanwhile.
    """

    seconds: float
    cpu_seconds: float
    cores_elsewhere: float | None
    peak_bytes: int | None
    kept_bytes: int | None
    sums: NDArray[np.float64]


def measure(work: Callable[[], NDArray[np.float64]], device: torch.device) -> Measurement:
    """The costs of some work; memory is that of the GPU on one, elsewhere that of the process."""
    before = bytes_in_use(device)
    marked = before is not None and _start_high_water_mark(device)
    wait_for(device)
    busy, cpu, wall = _busy_seconds(), time.process_time(), time.perf_counter()
    sums = work()
    wait_for(device)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    elsewhere = None if busy is None else max(0.0, (_busy_seconds() or 0.0) - busy - cpu_seconds) / seconds
    if before is None or not marked:
        return Measurement(seconds, cpu_seconds, elsewhere, None, None, sums)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status_bytes("VmHWM")
    kept = (bytes_in_use(device) or 0) - before
    return Measurement(seconds, cpu_seconds, elsewhere, max(0, peak - before), kept, sums)


def bytes_in_use(device: torch.device) -> int | None:
    """Memory in use now, None where the system doesn't report it.

    Freed memory is returned to the system first; otherwise the next algorithm would seem to need less.
    """
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if not _STATUS.is_file():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # it is glibc's own
        trim(0)
    return _status_bytes("VmRSS")


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work; on a CPU return at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _busy_seconds() -> float | None:
    """CPU seconds that all cores together have been busy since the system started."""
    if not _CPU_TIMES.is_file():
        return None
    user, nice, system, _, _, *interrupts = map(int, _CPU_TIMES.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _start_high_water_mark(device: torch.device) -> bool:
    """Whether the highest use of memory is from now on counted anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text(_RESET_HIGH_WATER_MARK)
    except OSError:  # containers may forbid it
        return False
    return True


def _status_bytes(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
