"""How many tokens fit into a forward pass, what an exhausted memory looks like, and what is said about it."""

import os
from typing import Any

import torch
from torch import nn

from nuggets.errors import OutOfMemory

_CACHED_ACTIVATION = 4 << 20  # bytes of the widest activation on a CPU: what a core's share of the cache can hold
_CPU_TOKENS = (256, 4096)  # fewer make matrix products slow, more bring nothing
_GPU_TOKENS = 32_768  # beyond it matrix products get no faster and a lost pass costs more
_GPU_SHARE = 0.5  # of the free memory: the rest is for keys and values, logits and fragmentation
# In the order: the CPU's allocator; a file that was to be mapped; a driver that was not asked by torch's allocator; a
# library that found no room for its workspace. None of them is a torch.OutOfMemoryError.
_EXHAUSTED = ("can't allocate memory", "Cannot allocate memory", "error: out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer tokens at a time might help."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED)
    )


def pair_too_large(tokens: int, device: torch.device) -> OutOfMemory:
    """The error for a single pair of so many tokens that memory has no room for."""
    return OutOfMemory(
        f"a single demonstration and anchor of {tokens} tokens do not fit into the memory of {device}: lower "
        "demonstration_tokens or anchor_tokens, or choose dtype=bfloat16 or a smaller model"
    )


def no_room_for(model: str, weights: int, device: torch.device, *, free: int | None) -> OutOfMemory:
    """The error for a model whose weights, so many bytes, memory has no room for."""
    return OutOfMemory(
        f"{model} does not fit into the memory of {device}: its weights take {_gigabytes(weights)}"
        + (f", and {_gigabytes(free)} were free" if free is not None else "")
        + ": end what else is running there, or choose dtype=bfloat16, a smaller model or another device"
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free now; None where that can't be asked. A process may be allowed less than that."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def cpu_token_budget(model: Any) -> int:
    """Tokens whose widest activation stays in a core's cache."""
    widths = [max(module.weight.shape) for module in model.base_model.modules() if _is_layer(module)]
    per_token = max(widths, default=1024) * int(model.dtype.itemsize)
    fewest, most = _CPU_TOKENS
    return min(most, max(fewest, _CACHED_ACTIVATION // per_token))


def gpu_token_budget(bytes_per_token: float, device: torch.device) -> int:
    """Tokens whose activations fill a share of the memory that is free now."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(256, min(_GPU_TOKENS, int(_GPU_SHARE * free / bytes_per_token)))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _is_layer(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
