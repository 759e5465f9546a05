"""The machine and the versions of a measurement."""

import os
import platform
from pathlib import Path

import numpy
import torch
import transformers


def describe_machine(device: torch.device) -> dict[str, object]:
    """Processor, cores this process may use, threads of torch, and the GPU if it is the device."""
    described: dict[str, object] = {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    return described


def describe_versions() -> dict[str, str]:
    """Versions of the packages that compute."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
