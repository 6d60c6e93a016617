"""When a device's memory is full: how to tell, and how to get some back."""

from __future__ import annotations

import os

import torch

from relaydet.compat import allocator_grows_segments

_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""What a user sets the allocator of CUDA by; torch reads it when CUDA is initialised."""
GROWING = "expandable_segments:True"
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


def grow_segments() -> None:
    """Let CUDA's memory lie in segments that grow, unless the user has set the allocator up.

    Batches of ever new shapes leave gaps between segments of fixed sizes. Does nothing where CUDA
    is initialised already (an earlier cell), is absent, or this torch cannot do it.
    """
    if any(os.environ.get(name) for name in _SETTINGS) or not allocator_grows_segments():
        return
    if torch.cuda.is_available() and not torch.cuda.is_initialized():
        os.environ[_SETTINGS[0]] = GROWING


def allocator_settings() -> str:
    """Return how the environment sets CUDA's allocator up, such as expandable_segments:True."""
    return next((os.environ[name] for name in _SETTINGS if os.environ.get(name)), "")


def has_cache(device: torch.device) -> bool:
    """Return whether torch keeps memory of this device for later, in pieces that may not fit."""
    return device.type in ("cuda", "mps")


def give_back(device: torch.device) -> None:
    """Return what is cached and unused, which in pieces of the wrong size is of no use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
