"""The devices that a run scores on, and the environment that pins a process to one of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nuggets.errors import UsageError


@dataclass(frozen=True, slots=True)
class Device:
    """A device for one scoring process: its name in messages, the environment that pins the process, the GPU's UUID."""

    name: str
    environment: Mapping[str, str]
    gpu_uuid: str | None = None  # None on CPU


def visible_gpu_uuids() -> list[str]:
    """UUIDs of the GPUs that torch sees, in torch's order; CUDA_VISIBLE_DEVICES decides which these are."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in range(torch.cuda.device_count())]


def find_devices(
    devices: str,
    workers: int | None,
    *,
    visible: str | None,
    gpu_uuids: Callable[[], Sequence[str]] = visible_gpu_uuids,
) -> tuple[Device, ...]:
    """The devices that the settings name on this machine, one for each scoring process.

    `visible` is the value of CUDA_VISIBLE_DEVICES, None if it is not set: GPU numbers count among these GPUs, as
    torch's do. Raises UsageError for a GPU that torch does not see, and for `workers` together with GPUs.
    """
    uuids = gpu_uuids() if devices != "cpu" else []
    numbers = list(range(len(uuids))) if devices in ("auto", "cpu") else [int(number) for number in devices.split(",")]
    if missing := [number for number in numbers if number >= len(uuids)]:
        known = f"0 to {len(uuids) - 1}: use these, auto or cpu" if uuids else "none: use auto or cpu"
        raise UsageError(f"devices={devices}: there is no GPU {missing[0]}; torch sees {known}")
    if numbers and workers is not None:
        raise UsageError(
            f"workers={workers} is for CPU, and this run would use GPUs ({devices}), a process each: leave it out, "
            "use devices=cpu, or name a GPU twice for two processes, as in devices=0,0"
        )
    if numbers:
        names = visible.split(",") if visible is not None else list(map(str, range(len(uuids))))
        return tuple(_gpu(number, names[number].strip(), uuids[number]) for number in numbers)
    count = workers or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(max(1, cores // count))}
    return tuple(Device(f"CPU worker {number}", share) for number in range(count))


def _gpu(number: int, visible_name: str, uuid: str) -> Device:
    # Slices of a GPU (MIG) are named by UUIDs, and what torch reports for one may be the UUID of the whole GPU.
    unique = visible_name if visible_name.startswith("MIG-") else uuid
    return Device(f"GPU {number}", {"CUDA_VISIBLE_DEVICES": visible_name}, unique)


def has_gpu() -> bool:
    """Whether a process that is pinned to nothing would use a GPU."""
    import torch

    return torch.cuda.is_available()
