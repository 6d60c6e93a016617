"""What differs between the supported releases of torch (2.0 on) and torchvision (0.15 on)."""

from __future__ import annotations

import torchvision


def release(version: str) -> tuple[int, int]:
    """Major and minor number of a version such as 0.26.0+cu128."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def detector_runs_in_bfloat16_on_cpu() -> bool:
    """Before 0.17 torchvision's nms and roi_align had no autocast rule for the CPU."""
    return release(torchvision.__version__) >= (0, 17)
