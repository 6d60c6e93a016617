"""Which GPU which torch can drive, told from facts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from relaydet.runtime import preflight
from relaydet.runtime.preflight import (
    FAIL,
    OK,
    WARN,
    Gpu,
    GpuFacts,
    gpu_facts,
    has_kernels,
    judge,
    judge_gpu,
)

GB = 10**9
# What the wheels on PyPI have kernels for.
TORCH_2_0_1 = ("sm_37", "sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86")
TORCH_2_7_1 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
TORCH_2_10 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
TORCH_2_14 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
FACTS = GpuFacts((), TORCH_2_14, "2.14.1+cu130", "13.0", "580.82.07")


def a_gpu(capability: tuple[int, int], name: str = "GPU", free: int = 15 * GB) -> Gpu:
    return Gpu(name, capability, 16 * GB, free)


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        pytest.param((3, 7), TORCH_2_0_1, True, id="K80, 2.0.1"),
        pytest.param((3, 7), TORCH_2_7_1, False, id="K80, 2.7.1"),
        pytest.param((6, 0), TORCH_2_7_1, True, id="P100, 2.7.1"),
        pytest.param((6, 1), TORCH_2_7_1, True, id="GTX 1080, later minor of sm_60"),
        pytest.param((6, 0), TORCH_2_10, False, id="P100, 2.10"),
        pytest.param((7, 0), TORCH_2_10, True, id="V100, 2.10"),
        pytest.param((7, 0), TORCH_2_14, False, id="V100, an earlier minor than sm_75"),
        pytest.param((7, 5), TORCH_2_14, True, id="T4, 2.14"),
        pytest.param((8, 9), TORCH_2_14, True, id="L4, later minor of sm_86"),
        pytest.param((9, 0), TORCH_2_0_1, False, id="H100, newer than 2.0.1"),
        pytest.param((10, 3), TORCH_2_14, True, id="B300, later minor of sm_100"),
        pytest.param((11, 0), TORCH_2_14, False, id="a major number in between"),
        pytest.param((12, 1), TORCH_2_14, True, id="later minor of sm_120"),
        pytest.param((9, 0), ("compute_50",), True, id="PTX on any later one"),
        pytest.param((7, 0), ("compute_70",), True, id="PTX on that one"),
        pytest.param((6, 1), ("compute_70",), False, id="PTX on no earlier one"),
        pytest.param((9, 0), ("sm_90a",), True, id="a: that one"),
        pytest.param((10, 3), ("sm_100a",), False, id="a: no later minor"),
        pytest.param((10, 0), ("compute_90a",), False, id="a: PTX on no later one"),
        pytest.param((10, 3), ("sm_100f",), True, id="f: the family"),
        pytest.param((10, 0), ("sm_103f",), False, id="f: no earlier one of the family"),
        pytest.param((12, 0), ("sm_100f",), False, id="f: no other family"),
        pytest.param((12, 0), ("compute_100f",), False, id="f: PTX on no other family"),
        pytest.param((12, 1), ("compute_120f",), True, id="f: PTX on the family"),
        pytest.param((9, 0), (), False, id="nothing"),
        pytest.param((9, 0), ("gfx90a",), False, id="another maker's"),
    ],
)
def test_what_runs_where(capability, architectures, runs):
    assert has_kernels(capability, architectures) is runs


UPGRADE = "pip install --upgrade torch torchvision"


@pytest.mark.parametrize(
    ("capability", "architectures", "runtime", "remedy"),
    [
        ((6, 0), TORCH_2_10, "kaggle", "choose GPU T4 x2 under Settings > Accelerator"),
        ((3, 7), TORCH_2_14, "colab", "Runtime > Change runtime type > T4"),
        ((6, 0), TORCH_2_14, "colab_enterprise", "a runtime whose template has a newer GPU"),
        ((3, 7), TORCH_2_14, "gcp_notebook", "pip install -r environments/k80.txt in a new"),
        ((5, 2), TORCH_2_14, "local", "pip install -r environments/p100.txt in a new"),
        ((6, 1), TORCH_2_10, "ci", "pip install -r environments/p100.txt in a new"),
        ((7, 0), TORCH_2_14, "vertex_job", "pip install -r environments/v100.txt in a new"),
        ((9, 0), TORCH_2_0_1, "local", f"newer than torch 2.14.1+cu130: {UPGRADE}"),
        ((7, 5), ("sm_80",), "local", UPGRADE),
        ((3, 5), TORCH_2_0_1, "local", "no torch since 2.0 reaches it"),
    ],
)
def test_a_gpu_without_kernels_fails_with_the_remedy_of_its_runtime(
    capability, architectures, runtime, remedy
):
    gpu = a_gpu(capability, "Tesla X")
    facts = replace(FACTS, gpus=(gpu,), architectures=architectures)
    verdict = judge(facts, runtime)
    assert verdict.level == FAIL
    major, minor = capability
    reach = ", ".join(architectures)
    for part in ("2.14.1+cu130", "Tesla X", f"capability {major}.{minor}", f"reaches {reach}"):
        assert part in verdict.message
    assert remedy in verdict.remedy


@pytest.mark.parametrize(
    ("changes", "level", "message"),
    [
        pytest.param({}, OK, "", id="T4"),
        pytest.param({"memory_free": 1 * GB}, WARN, "others hold 15.0 of the 16.0 GB", id="full"),
        pytest.param(
            {"memory_total": 1 * GB, "memory_free": 1 * GB}, WARN, "has only 1.0 GB", id="tiny"
        ),
        pytest.param(
            {"memory_free": 0, "trouble": "CUDA error: out of memory"},
            FAIL,
            "does not answer: CUDA error: out of memory",
            id="no room for a context",
        ),
    ],
)
def test_memory_is_looked_at(changes, level, message):
    verdict = judge_gpu(replace(a_gpu((7, 5)), **changes), FACTS)
    assert verdict.level == level
    assert message in verdict.message
    assert bool(verdict.remedy) is (level != OK)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"cuda": None, "architectures": ("gfx90a",)}, id="AMD"),
        pytest.param({"architectures": ()}, id="no list"),
    ],
)
def test_what_no_list_speaks_of_is_not_refused(changes):
    assert judge_gpu(a_gpu((9, 0)), replace(FACTS, **changes)).level == OK


def test_the_first_gpu_that_can_be_driven_counts():
    old, new = a_gpu((6, 0)), a_gpu((7, 5))
    assert judge(replace(FACTS, gpus=(old, new))).level == OK
    assert judge(replace(FACTS, gpus=(new, old))).level == OK
    assert judge(replace(FACTS, gpus=(old, old))).level == FAIL


@pytest.mark.parametrize(
    ("changes", "level", "message", "remedy"),
    [
        pytest.param({"driver": ""}, OK, "", "", id="no GPU"),
        pytest.param(
            {"cuda": None}, WARN, "is built without CUDA", "install torch", id="torch for CPUs"
        ),
        pytest.param(
            {"trouble": "The NVIDIA driver on your system is too old (found version 11040)."},
            WARN,
            "too old (found version 11040)",
            "update the driver",
            id="old driver",
        ),
        pytest.param(
            {"trouble": "No CUDA GPUs are available", "hidden": ""},
            WARN,
            "CUDA_VISIBLE_DEVICES='' hides",
            "unset it",
            id="hidden",
        ),
        pytest.param(
            {"trouble": "The driver is too old", "hidden": "0"},
            WARN,
            "The driver is too old",
            "update the driver",
            id="chosen, and an old driver",
        ),
        pytest.param(
            {"device_files": False}, WARN, "no GPU's device file", "--gpus all", id="container"
        ),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_told(changes, level, message, remedy):
    verdict = judge(replace(FACTS, **changes))
    assert verdict.level == level
    assert message in verdict.message
    assert remedy in verdict.remedy


VERSION = """NVRM version: NVIDIA UNIX {} Kernel Module {} 550.54.14  Release Build
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""


@pytest.fixture
def root(tmp_path) -> Path:
    """Where a file system begins, without anything of NVIDIA's."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("version", "files", "driver", "device_files"),
    [
        pytest.param(None, [], "", False, id="nothing"),
        pytest.param(None, ["nvidia0"], "unknown", True, id="a device alone"),
        pytest.param(VERSION.format("x86_64", ""), ["nvidia1"], "550.54.14", True, id="driver"),
        pytest.param(
            VERSION.format("Open", "for x86_64"), [], "550.54.14", False, id="open, in a container"
        ),
        pytest.param("?", ["nvidia0", "nvidiactl"], "unknown", True, id="illegible"),
    ],
)
def test_the_driver_is_read_from_files(root, version, files, driver, device_files):
    if version:
        (root / "proc/driver/nvidia/version").write_text(version)
    for name in files:
        (root / "dev" / name).touch()
    facts = gpu_facts(root)
    assert (facts.driver, facts.device_files) == (driver, device_files)
    assert facts.torch == torch.__version__


def test_why_cuda_does_not_start_is_quoted_each_time(root, monkeypatch):
    (root / "dev/nvidia0").touch()

    def fail() -> None:
        raise RuntimeError("The NVIDIA driver is too old\nPlease update")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail)
    for _ in range(2):
        facts = gpu_facts(root)
        assert (facts.gpus, facts.trouble) == ((), "The NVIDIA driver is too old")


@pytest.mark.parametrize(
    ("answer", "free", "trouble"),
    [(None, 15 * GB, ""), ("CUDA error: out of memory\nmore", 0, "CUDA error: out of memory")],
    ids=["answers", "does not answer"],
)
def test_each_gpu_is_asked(monkeypatch, answer, free, trouble):
    class Properties:
        name, major, minor, total_memory = "Tesla T4", 7, 5, 16 * GB

    def mem_get_info(number):
        if answer:
            raise RuntimeError(answer)
        return 15 * GB, 16 * GB

    for name, value in {
        "is_available": lambda: True,
        "init": lambda: None,
        "device_count": lambda: 2,
        "get_device_properties": lambda number: Properties,
        "mem_get_info": mem_get_info,
    }.items():
        monkeypatch.setattr(preflight.torch.cuda, name, value)
    expected = Gpu("Tesla T4", (7, 5), 16 * GB, free, trouble)
    assert gpu_facts().gpus == (expected, expected)


@pytest.mark.gpu
def test_the_gpu_of_this_machine_is_seen():
    facts = gpu_facts()
    assert len(facts.gpus) == torch.cuda.device_count()
    assert facts.gpus[0].capability == torch.cuda.get_device_capability(0)
    assert facts.driver not in ("", "unknown")
    # The rule tells what really happens: an operation runs where kernels are said to be.
    runs = has_kernels(facts.gpus[0].capability, facts.architectures)
    try:
        torch.zeros(1, device="cuda").add_(1).item()
        assert runs
    except RuntimeError:
        assert not runs
