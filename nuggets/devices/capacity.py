"""How much memory the devices of a run have in all, used or not."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nuggets.devices.devices import has_gpu

# The limit of a container, where there is one; in version 2 and version 1 of Linux' control groups.
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Capacity:
    """The memory of a device in bytes, and how many scoring processes share it."""

    device: str
    memory: int
    processes: int


def device_capacities(devices: str, workers: int | None) -> tuple[Capacity, ...]:
    """The memory of the devices that the settings name. Without those whose memory the system does not report."""
    if devices == "cpu" or not has_gpu():
        memory = machine_memory()
        return () if memory is None else (Capacity("this machine", memory, workers or 1),)
    import torch

    count = torch.cuda.device_count()
    numbers = range(count) if devices == "auto" else map(int, devices.split(","))
    return tuple(
        Capacity(f"GPU {number}", torch.cuda.get_device_properties(number).total_memory, processes)
        for number, processes in Counter(numbers).items()
        if number < count
    )


def machine_memory() -> int | None:
    """Bytes that processes of this machine or container can have in all; None if the system does not report them."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _CONTAINER_LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdecimal() else []
    return min(limits)
