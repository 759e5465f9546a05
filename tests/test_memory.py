"""Which errors mean that a device has no memory left."""

import pytest
import torch

from nuggets.engine.memory import is_out_of_memory


def test_other_errors_are_not_taken_for_exhausted_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_memory_that_a_library_or_the_driver_found_exhausted(kind: type[RuntimeError], message: str) -> None:
    assert is_out_of_memory(kind(message))


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_a_gpu_that_has_failed_otherwise_is_not_out_of_memory(kind: type[RuntimeError]) -> None:
    assert not is_out_of_memory(kind("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(kind("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"))
