"""Which device trains, and in which precision: a value and its reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from relaydet.compat import detector_runs_in_bfloat16_on_cpu
from relaydet.errors import RelayError


@dataclass(frozen=True)
class Device:
    """The device to run on."""

    device: torch.device
    name: str
    """As its maker calls it, or "CPU, 2 cores"."""
    dtype: torch.dtype
    """What matrix products are computed in: float32 or bfloat16."""
    reason: str
    """Why this device and this precision."""


def choose_device(asked: str = "auto", precision: str = "auto") -> Device:
    """Decide the device and the precision.

    Raises:
        RelayError: the device asked for is not there, or the precision is unknown.
    """
    device, why = _device(asked)
    dtype, why_dtype = _precision(device, precision)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
        if device.type == "cpu"
        else device.type
    )
    return Device(device, name, dtype, f"{why}; {why_dtype}")


def _device(asked: str) -> tuple[torch.device, str]:
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), "a CUDA device is attached"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "an Apple GPU is attached"
        return torch.device("cpu"), "no GPU is attached"
    try:
        device = torch.device(asked)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("neither cpu, cuda nor mps")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise RelayError(f"DEVICE {asked}: cannot be used ({first}); take auto or cpu.") from error
    return device, "asked for"


def _precision(device: torch.device, asked: str) -> tuple[torch.dtype, str]:
    if asked == "float32":
        return torch.float32, "float32: asked for"
    if asked == "bfloat16":
        return torch.bfloat16, "bfloat16: asked for"
    if asked != "auto":
        raise RelayError(f"PRECISION {asked}: unknown; take auto, float32 or bfloat16.")
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, "bfloat16: the GPU computes it natively"
        return torch.float32, "float32: the GPU has no bfloat16"
    if device.type == "cpu" and not detector_runs_in_bfloat16_on_cpu():
        return torch.float32, "float32: this torchvision's detector needs it on a CPU"
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16, "bfloat16: the CPU computes it natively"
    return torch.float32, f"float32: this {device.type} has no fast bfloat16"


def _cpu_has_bfloat16() -> bool:
    """Torch 2.0 has no public call for it; the kernel lists the processor's abilities."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
