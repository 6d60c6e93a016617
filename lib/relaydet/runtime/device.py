"""Which device trains, in which precision and memory layout: a value and its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from relaydet.compat import detector_runs_in_bfloat16_on_cpu, detector_runs_in_float16_on_cpu
from relaydet.errors import RelayError
from relaydet.runtime.memory import allocator_settings, grow_segments
from relaydet.runtime.preflight import (
    FAIL,
    WARN,
    GpuFacts,
    Verdict,
    first_usable,
    gpu_facts,
    judge,
    judge_absence,
    judge_gpu,
    usable,
)

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_DEVICES = re.compile(r"auto|(cpu|cuda|mps)(:\d{1,3})?")
_CAPABILITY_OF = {"float32": (0, 0), "bfloat16": (8, 0), "float16": (5, 3)}
"""Which GPUs compute what natively; see "Compute Capabilities" in NVIDIA's programming guide."""

_TF32 = " (convolutions in float32, as in evaluation, use TF32; matrix products do not)"
"""torch's defaults on Ampere and later, and left alone: a user may set them before. TF32 rounds the
factors to 10 bits of mantissa, as float16 has, keeps float32's range and sums in float32.
torch.backends.cudnn.allow_tf32 = False switches it off."""


@dataclass(frozen=True)
class Device:
    """The device to run on."""

    device: torch.device
    name: str
    """As its maker calls it, or "CPU, 2 threads"."""
    dtype: torch.dtype
    """What matrix products are computed in: float32, bfloat16 or float16."""
    reason: str
    """Why this device, this precision and this layout."""
    channels_last: bool = True
    """Whether weights and images lie in memory pixel by pixel (NHWC)."""
    quick: bool = True
    """Whether a detector computes in our faster ways instead of torchvision's."""
    memory_total: int | None = None
    """Bytes of a GPU; None elsewhere."""
    memory_free: int | None = None
    """Bytes of it that nobody holds."""
    warning: str = ""
    """What is odd about it; empty where nothing is."""
    remedy: str = ""
    """What to do about the warning."""


def choose_device(asked: str = "auto", precision: str = "auto", runtime: str = "local") -> Device:
    """Decide the device, the precision and the memory layout.

    Args:
        asked: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, float32, bfloat16 or float16.
        runtime: name of the runtime, which decides what can be done where something is wrong.

    Raises:
        RelayError: the device asked for is not there, the installed torch has no kernels for it, or
            the precision is unknown or not to be had there.
    """
    if precision not in ("auto", *PRECISIONS):
        raise RelayError(f"PRECISION {precision}: unknown; take auto, {', '.join(PRECISIONS)}.")
    if asked == "auto":
        return _auto(precision, runtime)
    _check_device(asked)
    try:
        device = torch.device(asked)
        if device.type != "cuda":
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise RelayError(f"DEVICE {asked}: cannot be used ({first}); take auto or cpu.") from error
    if device.type == "cuda":
        return _asked_cuda(asked, device.index, _facts(), precision, runtime)
    return _without_cuda(device, precision, "asked for")


def plainly(device: Device) -> Device:
    """The same device, on which everything is computed as torchvision does."""
    reason = f"{device.reason.rpartition(';')[0]}; plain: asked for"
    return replace(device, channels_last=False, quick=False, reason=reason)


def _check_device(asked: str) -> None:
    """Raise RelayError for a kind of device that nothing here computes on."""
    if not _DEVICES.fullmatch(asked):
        raise RelayError(f"DEVICE {asked or repr(asked)}: take auto, cpu, cuda or mps.")


def devices_to_share(device: Device, asked: str) -> list[torch.device]:
    """What prediction runs on: every GPU that torch can drive, where none is asked for by number.

    Args:
        device: what was chosen.
        asked: what was asked for, as `choose_device` took it.
    """
    numbers = devices_to_use(asked) if device.device.type == "cuda" else []
    return [torch.device("cuda", number) for number in numbers] or [device.device]


def devices_to_use(asked: str) -> list[int]:
    """Numbers of the GPUs that torch can drive, where DEVICE asks for no other device."""
    return usable(_facts()) if asked in ("auto", "cuda") else []


def choose_rank_device(asked: str, precision: str, runtime: str, local_rank: int) -> Device:
    """The device of one of several processes on this machine, each with a GPU of its own.

    Args:
        asked: auto, cpu or cuda.
        precision: as `choose_device` takes it.
        runtime: name of the runtime.
        local_rank: number of the process on this machine.

    Raises:
        RelayError: there are more processes than GPUs that can be used, or as `choose_device`.
    """
    _check_device(asked)
    if asked == "cpu" or (asked == "auto" and not _facts().gpus):
        return choose_device("cpu", precision, runtime)
    if asked not in ("auto", "cuda"):
        raise RelayError(f"DEVICE {asked}: is one device, and there are several ranks; take auto.")
    numbers = usable(_facts())
    if local_rank >= len(numbers):
        raise RelayError(
            f"Rank {local_rank} of this machine has no GPU: {len(numbers)} can be used; start as"
            " many ranks, or set DEVICE to cpu."
        )
    return choose_device(f"cuda:{numbers[local_rank]}", precision, runtime)


def _facts() -> GpuFacts:
    grow_segments()  # before the first question to the driver, which initialises CUDA
    return gpu_facts()


def _auto(precision: str, runtime: str) -> Device:
    facts = _facts()
    if facts.gpus:
        return _first_cuda("auto", facts, precision, runtime, "a CUDA device is attached")
    if torch.backends.mps.is_available():
        return _without_cuda(torch.device("mps"), precision, "an Apple GPU is attached")
    absence = judge_absence(facts)
    why = "no GPU can be used" if absence.level == WARN else "no GPU is attached"
    return _without_cuda(torch.device("cpu"), precision, why, absence)


def _asked_cuda(
    asked: str, number: int | None, facts: GpuFacts, precision: str, runtime: str
) -> Device:
    if not facts.gpus and (absence := judge_absence(facts)).message:
        raise _refusal(asked, absence)
    if (number or 0) >= len(facts.gpus):
        raise RelayError(
            f"DEVICE {asked}: cannot be used (torch sees {len(facts.gpus)} CUDA devices); take auto"
            " or cpu."
        )
    if number is None:
        return _first_cuda(asked, facts, precision, runtime, "asked for")
    verdict = judge_gpu(facts.gpus[number], facts, runtime)
    if verdict.level == FAIL:
        raise _refusal(asked, verdict)
    return _cuda(number, verdict, facts, precision, "asked for")


def _first_cuda(asked: str, facts: GpuFacts, precision: str, runtime: str, why: str) -> Device:
    """The first GPU that torch can drive."""
    number, verdict = first_usable(facts), judge(facts, runtime)
    if number is None:
        raise _refusal(asked, verdict)
    if number:
        why += f", number {number}: {judge_gpu(facts.gpus[0], facts, runtime).message}"
    return _cuda(number, verdict, facts, precision, why)


def _cuda(number: int, verdict: Verdict, facts: GpuFacts, precision: str, why: str) -> Device:
    gpu = facts.gpus[number]
    dtype, why_dtype = _cuda_precision(gpu.capability, precision)
    tensor_cores = gpu.capability >= (7, 0)
    layout = f"channels last: {'for its' if tensor_cores else 'no, it has no'} tensor cores"
    memory = f"; memory: {allocator_settings()}" if allocator_settings() else ""
    return Device(
        device=torch.device("cuda", number),
        name=gpu.name,
        dtype=dtype,
        reason=f"{why}; {why_dtype}{memory}; {layout}",
        channels_last=tensor_cores,
        memory_total=gpu.memory_total,
        memory_free=gpu.memory_free,
        warning=verdict.message,
        remedy=verdict.remedy,
    )


def _refusal(asked: str, verdict: Verdict) -> RelayError:
    return RelayError(f"DEVICE {asked}: {verdict.message}; {verdict.remedy}.")


def _without_cuda(
    device: torch.device, precision: str, why: str, absence: Verdict | None = None
) -> Device:
    dtype, why_dtype = (_cpu_precision if device.type == "cpu" else _mps_precision)(precision)
    name = f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    last = device.type == "cpu"
    layout = f"channels last: {'its convolutions are faster' if last else 'no, not on MPS'}"
    return Device(
        device=device,
        name=name,
        dtype=dtype,
        reason=f"{why}; {why_dtype}; {layout}",
        channels_last=last,
        warning=absence.message if absence else "",
        remedy=absence.remedy if absence else "",
    )


def _cuda_precision(capability: tuple[int, int], asked: str) -> tuple[torch.dtype, str]:
    if asked != "auto":
        needed = _CAPABILITY_OF[asked]
        if capability < needed:
            raise RelayError(
                f"PRECISION {asked}: a GPU of capability {capability[0]}.{capability[1]} computes"
                f" none, it takes {needed[0]}.{needed[1]}; take auto or float32."
            )
        why = f"{asked}: asked for"
        return PRECISIONS[asked], why + (_TF32 if capability >= (8, 0) else "")
    if capability >= (8, 0):
        return torch.bfloat16, "bfloat16: the GPU computes it natively" + _TF32
    if capability >= (7, 0):
        return torch.float16, "float16 with loss scaling: it has tensor cores, and no bfloat16"
    return torch.float32, "float32: the GPU has no tensor cores"


def _cpu_precision(asked: str) -> tuple[torch.dtype, str]:
    if asked == "float16" and not detector_runs_in_float16_on_cpu():
        raise RelayError("PRECISION float16: this torch has none on a CPU; take auto or float32.")
    if asked != "auto":
        return PRECISIONS[asked], f"{asked}: asked for"
    if not detector_runs_in_bfloat16_on_cpu():
        return torch.float32, "float32: this torchvision's detector needs it on a CPU"
    if _cpu_has_bfloat16():
        return torch.bfloat16, "bfloat16: the CPU computes it natively"
    return torch.float32, "float32: this cpu has no fast bfloat16"


def _mps_precision(asked: str) -> tuple[torch.dtype, str]:
    if asked in ("auto", "float32"):
        return torch.float32, "float32: what torchvision's detectors run in on an Apple GPU"
    raise RelayError(f"PRECISION {asked}: not on an Apple GPU; take auto or float32.")


def _cpu_has_bfloat16() -> bool:
    """Torch 2.0 has no public call for it; the kernel lists the processor's abilities."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
