"""When a device's memory is full: how to tell, and how to get some back."""

from __future__ import annotations

import torch

_SENTENCES = (
    "out of memory",  # CUDA's allocator, and that of Apple's GPUs
    "_STATUS_ALLOC_FAILED",  # CUBLAS_, CUDNN_ before its release 9, CUSOLVER_
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",  # since
    "can't allocate memory",  # the CPU's
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is full; libraries say it in many ways."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SENTENCES)


def give_back(device: torch.device) -> None:
    """Return what is cached and unused, which in pieces of the wrong size is of no use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
