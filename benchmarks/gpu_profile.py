"""Launches, copies, waits and the GPU's time of a step by kind of kernel; ours and the reference.

python benchmarks/gpu_profile.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from speed_sides import Side, Task, ours, reference
from step_parts import wait
from torch.profiler import ProfilerActivity, profile
from train_speed import load

from relaydet.runtime.device import choose_device, plainly
from relaydet.runtime.memory import give_back

CALLS = ("cudaLaunch", "cuLaunch", "cudaMemcpy", "cudaMemset", "cudaStreamSync", "cudaDeviceSync")
KINDS = {
    "products": ("gemm", "conv", "cudnn", "xmma", "cutlass", "wgrad", "dgrad", "fprop"),
    "RoIAlign": ("roi",),
    "NMS": ("nms",),
    "sorting": ("sort", "topk", "scan", "radix"),
    "indexing": ("index", "scatter", "gather"),
    "copies": ("memcpy", "memset", "copy", "fill", "nchw", "nhwc"),
    "elementwise": ("elementwise",),
    "sums": ("reduce",),
    "optimizer": ("multi_tensor",),
}
"""By kind, what the names of its kernels hold; the first that fits."""


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next((k for k, parts in KINDS.items() if any(p in name for p in parts)), "other")


def measure(side: Side, rounds: int) -> None:
    """Print what is seen in a few steps of a side."""
    device = side.device.device
    cuda = device.type == "cuda"
    for _ in range(rounds):
        next(side.steps)
    wait(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    began = time.perf_counter()
    with profile(activities=activities) as seen:
        for _ in range(rounds):
            next(side.steps)
        wait(device)
    wall = 1e3 * (time.perf_counter() - began) / rounds
    events = list(seen.key_averages())
    kernels = [event for event in events if str(event.device_type).endswith("CUDA")]
    by_kind: Counter[str] = Counter()
    for event in kernels:
        by_kind[kind_of(event.key)] += _device_us(event) / rounds / 1e3
    busy = sum(by_kind.values())
    calls = {e.key: e.count / rounds for e in events if e.key.startswith(CALLS)}
    print(f"{side.name}: {wall:.1f} ms a step under the profiler, GPU busy {busy:.1f} ms")
    print("  calls a step:", ", ".join(f"{k} {n:.1f}" for k, n in sorted(calls.items())) or "none")
    print("  ms by kind:", ", ".join(f"{k} {ms:.2f}" for k, ms in by_kind.most_common()) or "none")
    for event in sorted(kernels, key=_device_us, reverse=True)[:20]:
        print(f"  {_device_us(event) / rounds / 1e3:8.3f} ms  {event.key[:90]}")


def _device_us(event: Any) -> float:
    """Microseconds on the GPU; the name differs between releases of torch."""
    us = getattr(event, "self_device_time_total", None)
    return float(getattr(event, "self_cuda_time_total", 0) if us is None else us)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--model", default="resnet50_fpn")
    asked.add_argument("--size", type=int, default=800)
    asked.add_argument("--batches", type=int, nargs="+", default=[8, 2])
    given = asked.parse_args()
    best, single = choose_device(given.device), choose_device(given.device, "float32")
    cuda = best.device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        samples, photos, categories = load(Path(folder))
        for batch in given.batches:
            workers = 4 if cuda else 1
            task = Task(given.model, given.size, batch, workers, samples, photos, categories)
            print(f"batch {batch}")
            for make in (
                lambda task: ours(task, best, "relaydet"),
                lambda task: reference(task, plainly(single), cuda),
            ):
                side = make(task)
                measure(side, 4 if cuda else 1)
                del side
                give_back(best.device)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
