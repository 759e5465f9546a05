"""Which devices a run scores on, and what pins a process to one of them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nuggets.errors import UsageError


@dataclass(frozen=True, slots=True)
class Device:
    """A place for one scoring process: its name for people, and the environment that keeps the process there."""

    name: str
    environment: Mapping[str, str]


def find_devices(devices: str, workers: int | None, *, visible: str | None) -> tuple[Device, ...]:
    """The devices that the settings mean on this machine, one for each scoring process.

    `visible` is what CUDA_VISIBLE_DEVICES says, None if it is not set: GPU numbers count among these, as torch's do.
    Raises UsageError for a GPU that is not there, or a number of workers where GPUs say how many there are.
    """
    there = _gpus(visible) if devices != "cpu" else []
    wanted = list(range(len(there))) if devices in ("auto", "cpu") else [int(number) for number in devices.split(",")]
    if missing := [number for number in wanted if number >= len(there)]:
        known = f"0 to {len(there) - 1}: use these, auto or cpu" if there else "none: use auto or cpu"
        raise UsageError(f"devices={devices}: GPU {missing[0]} is not here; torch sees {known}")
    if wanted and workers is not None:
        raise UsageError(
            f"workers={workers} is for CPU, and this run would use GPUs ({devices}), a process each: leave it out, "
            "use devices=cpu, or name a GPU twice for two processes, as in devices=0,0"
        )
    if wanted:
        return tuple(Device(f"GPU {number}", {"CUDA_VISIBLE_DEVICES": there[number]}) for number in wanted)
    count = workers or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(max(1, cores // count))}
    return tuple(Device(f"CPU worker {number}", share) for number in range(count))


def has_gpu() -> bool:
    """Whether a process that is pinned to nothing would use a GPU."""
    import torch

    return torch.cuda.is_available()


def _gpus(visible: str | None) -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES knows the GPUs that torch sees, in torch's order."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [name.strip() for name in visible.split(",")] if visible is not None else [str(i) for i in range(count)]
    return names[:count]
