"""What machine this is: versions, what we decide on it, and what its GPU reaches.

python benchmarks/gpu_facts.py
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from torch.nn.functional import conv2d

from relaydet.compat import jpeg_decoder
from relaydet.runtime.device import choose_device
from relaydet.runtime.preflight import gpu_facts, judge

SIDE = 8192
CALLS = 2000


def of_the_machine(asked: str) -> dict[str, Any]:
    """Versions, cores and what we decide."""
    device, seen = choose_device(asked), gpu_facts()
    shm = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    return {
        "name": device.name,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "GB free in /dev/shm": f"{shm.f_bavail * shm.f_frsize / 1e9:.1f}" if shm else "none",
        "JPEGs by torchvision": jpeg_decoder() is not None,
        "GPUs": seen,
        "verdict": judge(seen),
        "decided": device.reason,
    }


def of_the_gpu(device: torch.device) -> dict[str, Any]:
    """What it reaches in large products and copies, and what a launch and a wait take its host."""
    kind: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    last = {"memory_format": torch.channels_last}
    square = torch.randn(SIDE, SIDE, **kind)
    maps = torch.randn(8, 256, 200, 272, **kind).to(**last)
    kernels = torch.randn(256, 256, 3, 3, **kind).to(**last)
    source = torch.empty(1 << 29, device=device)
    target, one = torch.empty_like(source), torch.zeros(1, device=device)
    product = _milliseconds(lambda: square @ square)
    convolution = _milliseconds(lambda: conv2d(maps, kernels, padding=1))
    copy = _milliseconds(lambda: target.copy_(source))
    return {
        "cuDNN": torch.backends.cudnn.version(),
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        "TF32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
        "matrix product, bfloat16, TFLOP/s": f"{2 * SIDE**3 / product / 1e9:.0f}",
        "3 x 3 convolution, bfloat16, TFLOP/s": f"{4608 * maps.numel() / convolution / 1e9:.0f}",
        "copy, TB/s": f"{8 * source.numel() / copy / 1e9:.2f}",
        "launch, us": f"{_microseconds(lambda: one.add_(1)):.1f}",
        "wait (item), us": f"{_microseconds(one.item):.1f}",
        "a number to the GPU, us": f"{_microseconds(lambda: torch.tensor(0.5, device=device)):.1f}",
    }


def _milliseconds(work: Callable[[], Any], rounds: int = 12) -> float:
    """The median by the GPU's own clock."""
    taken = []
    for _ in range(rounds + 3):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        torch.cuda.synchronize()
        taken.append(first.elapsed_time(last))
    return float(np.median(taken[3:]))


def _microseconds(call: Callable[[], Any]) -> float:
    """What a call takes the host."""
    call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS * 1e6


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--device", default="auto")
    given = asked.parse_args()
    facts = of_the_machine(given.device)
    device = choose_device(given.device).device
    if device.type == "cuda":
        facts.update(of_the_gpu(device))
    for name, value in facts.items():
        print(f"{name} = {value}")


if __name__ == "__main__":
    main()
