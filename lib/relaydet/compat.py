"""What differs between the supported releases of torch (2.0 on) and torchvision (0.15 on)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision


def release(version: str) -> tuple[int, int]:
    """Major and minor number of a version such as 0.26.0+cu128."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def detector_runs_in_bfloat16_on_cpu() -> bool:
    """Before 0.17 torchvision's nms and roi_align had no autocast rule for the CPU."""
    return release(torchvision.__version__) >= (0, 17)


def detector_runs_in_float16_on_cpu() -> bool:
    """Before 2.3 torch could neither autocast to float16 nor scale losses on a CPU."""
    return detector_runs_in_bfloat16_on_cpu() and release(torch.__version__) >= (2, 3)


def unsafe_pickles() -> str:
    """Why a file of torch.save from elsewhere must not be loaded here; empty where it may be.

    torch.load(weights_only=True) could be made to run code that is in the file: before 2.6 by
    CVE-2025-32434, before 2.10 by CVE-2026-24747.
    """
    for fixed, hole in (((2, 6), "CVE-2025-32434"), ((2, 10), "CVE-2026-24747")):
        if release(torch.__version__) < fixed:
            major, minor = fixed
            return f"a crafted one can run code in torch before {major}.{minor} ({hole})"
    return ""


def allocator_grows_segments() -> bool:
    """Before 2.1 torch refuses to start with expandable_segments; there it was an experiment."""
    return sys.platform == "linux" and release(torch.__version__) >= (2, 2)


def grad_scaler(device_type: str) -> Any:
    """A scaler of losses for float16, of the kind that this release has."""
    if release(torch.__version__) >= (2, 3):
        return torch.amp.GradScaler(device_type)
    return torch.cuda.amp.GradScaler()


def jpeg_decoder() -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Torchvision's, from a file's bytes to RGB [3, H, W]; None where there is none any more.

    Since 0.29 it is deprecated in favour of torchcodec 0.16, which is newer than Colab's.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        return None
    return partial(decode_jpeg, mode=ImageReadMode.RGB)
