"""Can this torch drive that GPU? Told before the first operation, which would fail with a riddle.

`torch.cuda.is_available()` only says that a driver and a device are there. Whether the binary has
kernels for it is written in its list of architectures: sm_XY runs on devices of the same major
number and an equal or later minor one; compute_XY is PTX, which the driver compiles for any later
device. With an a (sm_90a, compute_90a) both run on that very one, with an f (sm_100f) on its
family: later minors of the same major. See "Compute Capabilities" in
https://docs.nvidia.com/cuda/cuda-programming-guide, and `torch.cuda._check_capability`, which warns
by nearly the same rule, and only once CUDA is in use.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from relaydet.places import ROOT

OK, WARN, FAIL = "ok", "warn", "fail"
LITTLE_MEMORY = 2e9
"""Bytes: `small` at its 128 pixels trains in less, resnet50_fpn at 800 pixels does not."""

_ENVIRONMENTS = (
    ((3, 7), (4, 0), "environments/k80.txt"),
    ((5, 0), (7, 0), "environments/p100.txt"),
    ((7, 0), (7, 5), "environments/v100.txt"),
)
"""From which capability, up to below which, the environment with the newest torch that has it."""
_NONE_LEFT = "No CUDA GPUs are available"
"""Torch's words where a driver is there that works, and none is to be seen."""
_OLDEST = (3, 7)
"""What torch 2.0.1 reaches, and nothing since does."""
_OTHER_GPU = {
    "kaggle": "choose GPU T4 x2 under Settings > Accelerator",
    "colab": "choose Runtime > Change runtime type > T4",
    "colab_enterprise": "connect to a runtime whose template has a newer GPU",
}


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    capability: tuple[int, int]
    """Major and minor number of its architecture: (7, 5) for a T4."""
    memory_total: int
    """Bytes."""
    memory_free: int
    """Bytes that nobody holds."""
    trouble: str = ""
    """What CUDA said when it was looked at and does not answer: full, or another's alone."""


@dataclass(frozen=True)
class GpuFacts:
    """What there is, before anything is judged."""

    gpus: tuple[Gpu, ...]
    """Those that torch sees."""
    architectures: tuple[str, ...]
    """What the binary has kernels for: sm_75, compute_90 ..."""
    torch: str
    """Its version."""
    cuda: str | None
    """The version of CUDA that it was built with; None without."""
    driver: str
    """Version of NVIDIA's driver; empty where there is none."""
    trouble: str = ""
    """What torch said when it looked for GPUs and could not use them."""
    hidden: str | None = None
    """CUDA_VISIBLE_DEVICES, which hides all GPUs that it does not name; None where it is unset."""
    device_files: bool = True
    """Whether there is a GPU's device file, without which a container has the driver alone."""


@dataclass(frozen=True)
class Verdict:
    """Whether training can run there."""

    level: str
    """ok, warn or fail."""
    message: str = ""
    """What is wrong; empty where nothing is."""
    remedy: str = ""


def gpu_facts(root: Path = ROOT) -> GpuFacts:
    """Look at the GPUs of this machine; runs nothing on them.

    Args:
        root: where the file system begins.
    """
    driver = _driver(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own words on what is judged here
        available = torch.cuda.is_available()
        trouble = _trouble() if driver or available else ""
        seen = torch.cuda.device_count() if available and not trouble else 0
        gpus = tuple(_gpu(number) for number in range(seen))
    return GpuFacts(
        gpus=gpus,
        architectures=tuple(torch.cuda.get_arch_list()),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        driver=driver,
        trouble=trouble,
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
        device_files=any((root / "dev").glob("nvidia[0-9]*")),
    )


def _trouble() -> str:
    """Why CUDA does not start; `is_available` warns of it only once in a process."""
    if torch.version.cuda is None:
        return ""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return _first_line(error)
    return ""


def _gpu(number: int) -> Gpu:
    properties = torch.cuda.get_device_properties(number)
    name, capability = properties.name, (properties.major, properties.minor)
    try:
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        return Gpu(name, capability, properties.total_memory, 0, _first_line(error))
    return Gpu(name, capability, total, free)


def _first_line(text: object) -> str:
    return next(iter(str(text).splitlines()), "")


def _driver(root: Path) -> str:
    """As the kernel tells: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu ..."."""
    version = root / "proc/driver/nvidia/version"
    if not version.exists():
        return "unknown" if any((root / "dev").glob("nvidia[0-9]*")) else ""
    found = re.search(r"Module\s.*?(\d+\.\d+[.\d]*)", version.read_text(errors="replace"))
    return found[1] if found else "unknown"


def judge(facts: GpuFacts, runtime: str = "local") -> Verdict:
    """Whether the installed torch can train on what is attached, as DEVICE auto sees it.

    Of several GPUs the first that it can drive counts. An empty message means that all is well, or
    that there is no GPU.

    Args:
        facts: what there is.
        runtime: its name, which decides what can be done about it.
    """
    if not facts.gpus:
        return judge_absence(facts)
    number = first_usable(facts)
    return judge_gpu(facts.gpus[number or 0], facts, runtime)


def first_usable(facts: GpuFacts) -> int | None:
    """Number of the first GPU that torch can drive; None where there is none."""
    return next(iter(usable(facts)), None)


def usable(facts: GpuFacts) -> list[int]:
    """Numbers of the GPUs that torch can drive."""
    levels = [judge_gpu(gpu, facts).level for gpu in facts.gpus]
    return [number for number, level in enumerate(levels) if level != FAIL]


def has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether a binary with these architectures (sm_75, compute_90) runs on that capability."""
    return any(_runs(capability, architecture) for architecture in architectures)


def _runs(capability: tuple[int, int], architecture: str) -> bool:
    found = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", architecture)
    if not found:
        return False
    built = divmod(int(found[2]), 10)
    if found[3] == "a":
        return built == capability
    if found[1] == "compute" and not found[3]:
        return built <= capability
    return built[0] == capability[0] and built[1] <= capability[1]


def judge_gpu(gpu: Gpu, facts: GpuFacts, runtime: str = "local") -> Verdict:
    """Whether the installed torch can train on a GPU.

    Args:
        gpu: one of `facts.gpus`.
        facts: what there is.
        runtime: its name, which decides what can be done about it.
    """
    # torch for AMD's GPUs has another kind of list, and a build of one's own may have none.
    listed = facts.cuda is not None and facts.architectures
    if listed and not has_kernels(gpu.capability, facts.architectures):
        major, minor = gpu.capability
        message = (
            f"torch {facts.torch} has no kernels for the {gpu.name} (capability {major}.{minor}):"
            f" it reaches {', '.join(facts.architectures)}"
        )
        return Verdict(FAIL, message, _remedy(gpu, facts, runtime))
    if gpu.trouble:
        message = f"the {gpu.name} does not answer: {gpu.trouble}"
        return Verdict(FAIL, message, "see nvidia-smi for what holds it, stop that, or DEVICE cpu")
    if gpu.memory_total < LITTLE_MEMORY:
        message = f"the {gpu.name} has only {gpu.memory_total / 1e9:.1f} GB"
        return Verdict(WARN, message, "take MODEL small, a small IMAGE_SIZE, or another GPU")
    if gpu.memory_free < max(LITTLE_MEMORY, gpu.memory_total / 4):
        message = (
            f"others hold {(gpu.memory_total - gpu.memory_free) / 1e9:.1f} of the"
            f" {gpu.memory_total / 1e9:.1f} GB of the {gpu.name}"
        )
        return Verdict(WARN, message, "see nvidia-smi, and stop what is not needed")
    return Verdict(OK)


def judge_absence(facts: GpuFacts) -> Verdict:
    """What there is to say where torch sees no GPU: is one there all the same?"""
    if facts.gpus or not facts.driver:
        return Verdict(OK)
    if facts.cuda is None:
        message = f"an NVIDIA GPU is attached, and torch {facts.torch} is built without CUDA"
        return Verdict(WARN, message, "install torch and torchvision as PyPI has them")
    if not facts.device_files:
        message = f"NVIDIA's driver {facts.driver} is there, and no GPU's device file"
        return Verdict(WARN, message, "start the container with --gpus all")
    if facts.hidden is not None and _NONE_LEFT in facts.trouble:
        message = f"CUDA_VISIBLE_DEVICES={facts.hidden!r} hides the NVIDIA GPU that is attached"
        return Verdict(WARN, message, "unset it, unless the GPU is meant for something else")
    message = (
        f"an NVIDIA GPU is attached (driver {facts.driver}), and torch {facts.torch} with CUDA"
        f" {facts.cuda} cannot use it: {facts.trouble or 'it does not say why'}"
    )
    remedy = "update the driver, or install an older torch: see environments/README.md"
    return Verdict(WARN, message, remedy)


def _remedy(gpu: Gpu, facts: GpuFacts, runtime: str) -> str:
    if runtime in _OTHER_GPU:
        return _OTHER_GPU[runtime]
    if gpu.capability < _OLDEST:
        return "no torch since 2.0 reaches it: take another GPU, or DEVICE cpu"
    for first, beyond, file in _ENVIRONMENTS:
        if first <= gpu.capability < beyond:
            return f"pip install -r {file} in a new virtual environment, or DEVICE cpu"
    return (
        f"it is newer than torch {facts.torch}: pip install --upgrade torch torchvision in a new"
        " virtual environment, or DEVICE cpu"
    )
