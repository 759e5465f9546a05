"""Memory: how many tokens fit into a forward pass, how exhausted memory is detected, and the errors that report it."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from nuggets.errors import OutOfMemory

T = TypeVar("T")
_CACHED_ACTIVATION = 4 << 20  # bytes of the widest activation on a CPU: what a core's share of the cache can hold
_CPU_TOKENS = (256, 4096)  # fewer make matrix products slow, more bring nothing
_GPU_TOKENS = 32_768  # beyond it matrix products get no faster and a lost pass costs more
_GPU_SHARE = 0.5  # of the free memory: the rest is for keys and values, logits and fragmentation
# None of these is a torch.OutOfMemoryError. In this order they come from: the CPU's allocator; a file that is mapped; a
# driver that is not called by torch's allocator; a library that has no room for its workspace.
_EXHAUSTED = ("can't allocate memory", "Cannot allocate memory", "error: out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer tokens at a time might help."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED)
    )


def unless_out_of_memory(compute: Callable[[], T]) -> T | None:
    """What `compute` returns; None if memory runs out.

    The error is not kept: what the failed pass had allocated lives as long as its error does.
    """
    try:
        return compute()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


def pair_too_large(tokens: int, device: torch.device) -> OutOfMemory:
    """The error for a single pair of `tokens` tokens that memory has no room for."""
    return OutOfMemory(
        f"a single demonstration and anchor of {tokens} tokens do not fit into the memory of {device}: lower "
        "demonstration_tokens or anchor_tokens, or choose dtype=bfloat16 or a smaller model"
    )


def no_room_for(model: str, weights: int, device: torch.device, *, free: int | None) -> OutOfMemory:
    """The error for a model whose weights, in bytes, memory has no room for; `free`: bytes that were free before."""
    return OutOfMemory(
        f"{model} does not fit into the memory of {device}: its weights take {_gigabytes(weights)}"
        + (f", and {_gigabytes(free)} were free" if free is not None else "")
        + ": end what else is running there, or choose dtype=bfloat16, a smaller model or another device"
    )


def no_room_to_check(model: str, device: torch.device) -> OutOfMemory:
    """The error for a model that fits into memory, but not together with the self-check of packed scoring."""
    return OutOfMemory(
        f"the memory of {device} has no room to check packed scoring of {model}, and none to score it: end what else "
        "is running there, or choose dtype=bfloat16, a smaller model or another device"
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free now; None where the system does not report it. A process may be limited to less."""
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
