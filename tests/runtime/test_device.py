"""Device, precision and memory layout: what is decided, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from relaydet.errors import RelayError
from relaydet.runtime import device as module
from relaydet.runtime.device import choose_device
from relaydet.runtime.preflight import Gpu, GpuFacts

GB = 10**9
P100 = Gpu("Tesla P100-PCIE-16GB", (6, 0), 17 * GB, 16 * GB)
T4 = Gpu("Tesla T4", (7, 5), 16 * GB, 15 * GB)
A100 = Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 42 * GB, 41 * GB)
FACTS = GpuFacts((), ("sm_75", "sm_80", "sm_90"), "2.14.1+cu130", "13.0", "580.82")
EVERY = ("sm_37", "sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86")
UNUSABLE = replace(FACTS, trouble="The NVIDIA driver on your system is too old (found 11040).")


@pytest.fixture
def attached(monkeypatch):
    """Puts facts about GPUs in the place of this machine's."""

    def attach(*gpus: Gpu, facts: GpuFacts = FACTS, **changes) -> None:
        found = replace(facts, gpus=gpus, **changes)
        monkeypatch.setattr(module, "gpu_facts", lambda: found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return attach


@pytest.mark.parametrize(
    ("precision", "cpu_has_it", "dtype", "why"),
    [
        pytest.param("float32", True, torch.float32, "asked for", id="float32 asked for"),
        pytest.param("bfloat16", False, torch.bfloat16, "asked for", id="bfloat16 asked for"),
        pytest.param("auto", True, torch.bfloat16, "natively", id="fast bfloat16"),
        pytest.param("auto", False, torch.float32, "no fast bfloat16", id="no fast bfloat16"),
    ],
)
def test_precision_on_a_cpu(monkeypatch, precision, cpu_has_it, dtype, why):
    monkeypatch.setattr(module, "_cpu_has_bfloat16", lambda: cpu_has_it)
    monkeypatch.setattr(module, "detector_runs_in_bfloat16_on_cpu", lambda: True)
    chosen = choose_device("cpu", precision)
    assert (chosen.device, chosen.dtype) == (torch.device("cpu"), dtype)
    assert chosen.name.startswith("CPU, ")
    assert chosen.channels_last
    asked, why_dtype, layout = chosen.reason.split("; ")
    assert asked == "asked for"
    assert why_dtype.endswith(why)
    assert layout.startswith("channels last: its convolutions")


@pytest.mark.parametrize("there", [True, False])
def test_float16_on_a_cpu_is_taken_when_asked_for_and_there(monkeypatch, there):
    monkeypatch.setattr(module, "detector_runs_in_float16_on_cpu", lambda: there)
    if there:
        assert choose_device("cpu", "float16").dtype == torch.float16
    else:
        with pytest.raises(RelayError, match="PRECISION float16: this torch has none on a CPU"):
            choose_device("cpu", "float16")


@pytest.mark.parametrize(
    ("gpu", "precision", "dtype", "channels_last", "why"),
    [
        pytest.param((3, 7), "auto", torch.float32, False, "no tensor cores", id="K80"),
        pytest.param((6, 0), "auto", torch.float32, False, "no tensor cores", id="P100"),
        pytest.param((6, 0), "float16", torch.float16, False, "asked for", id="P100, float16"),
        pytest.param((7, 0), "auto", torch.float16, True, "loss scaling", id="V100"),
        pytest.param((7, 5), "auto", torch.float16, True, "loss scaling", id="T4"),
        pytest.param((7, 5), "float32", torch.float32, True, "asked for", id="T4, float32"),
        pytest.param((8, 0), "auto", torch.bfloat16, True, "natively", id="A100"),
        pytest.param((8, 6), "float16", torch.float16, True, "asked for", id="A10, float16"),
    ],
)
def test_precision_and_layout_on_a_gpu(attached, gpu, precision, dtype, channels_last, why):
    attached(Gpu("GPU", gpu, 12 * GB, 11 * GB), architectures=EVERY)
    chosen = choose_device("auto", precision)
    assert (chosen.device, chosen.name) == (torch.device("cuda", 0), "GPU")
    assert (chosen.dtype, chosen.channels_last) == (dtype, channels_last)
    assert (chosen.memory_total, chosen.memory_free) == (12 * GB, 11 * GB)
    assert why in chosen.reason
    assert f"channels last: {'for its' if channels_last else 'no,'}" in chosen.reason
    assert not chosen.warning


def test_an_apple_gpu_trains_in_float32(attached, monkeypatch):
    attached()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    chosen = choose_device()
    assert (chosen.device.type, chosen.dtype, chosen.channels_last) == ("mps", torch.float32, False)
    assert chosen.reason.startswith("an Apple GPU is attached; float32: ")
    with pytest.raises(RelayError, match="PRECISION bfloat16: not on an Apple GPU"):
        choose_device("auto", "bfloat16")


def test_without_a_gpu_the_cpu_is_taken(attached):
    attached(driver="")
    chosen = choose_device()
    assert chosen.device.type == "cpu"
    assert chosen.reason.startswith("no GPU is attached; ")
    assert (chosen.warning, chosen.memory_total, chosen.memory_free) == ("", None, None)


def test_a_gpu_that_cannot_be_used_is_named_when_the_cpu_is_taken(attached):
    attached(facts=UNUSABLE)
    chosen = choose_device()
    assert chosen.device.type == "cpu"
    assert chosen.reason.startswith("no GPU can be used; ")
    assert "too old (found 11040)" in chosen.warning
    assert chosen.remedy.startswith("update the driver")


@pytest.mark.parametrize("asked", ["cuda", "cuda:0"])
def test_a_gpu_that_cannot_be_used_and_was_asked_for_is_refused(attached, asked):
    attached(facts=UNUSABLE)
    with pytest.raises(RelayError, match=rf"^DEVICE {asked}: .*11040.*update the driver") as caught:
        choose_device(asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:0"])
@pytest.mark.parametrize(
    ("runtime", "remedy"),
    [
        ("kaggle", "choose GPU T4 x2 under Settings > Accelerator"),
        ("local", "pip install -r environments/p100.txt in a new virtual environment"),
    ],
)
def test_a_gpu_without_kernels_is_refused_with_the_remedy(attached, asked, runtime, remedy):
    attached(P100)
    with pytest.raises(RelayError) as caught:
        choose_device(asked, runtime=runtime)
    for part in (f"DEVICE {asked}: ", P100.name, "capability 6.0", "2.14.1", "sm_75", remedy):
        assert part in str(caught.value)


def test_of_two_gpus_the_one_that_torch_can_drive_is_taken(attached):
    attached(P100, T4)
    for asked in ("auto", "cuda", "cuda:1"):
        assert choose_device(asked).device == torch.device("cuda", 1)
    chosen = choose_device()
    assert chosen.name == T4.name
    assert "no kernels for the Tesla P100" in chosen.reason
    with pytest.raises(RelayError, match=r"DEVICE cuda:0: .*P100"):
        choose_device("cuda:0")


def test_of_two_gpus_that_can_be_driven_the_first_is_taken(attached):
    attached(T4, A100)
    assert choose_device().device == choose_device("cuda").device == torch.device("cuda", 0)
    assert choose_device("cuda:1").name == A100.name


def test_a_full_gpu_is_taken_with_a_warning(attached):
    attached(replace(T4, memory_free=GB))
    chosen = choose_device()
    assert "15.0 of the 16.0 GB" in chosen.warning
    assert "nvidia-smi" in chosen.remedy


@pytest.mark.parametrize(
    ("gpu", "precision", "message"),
    [
        pytest.param(T4, "bfloat16", "capability 7.5 computes none", id="bfloat16 on a T4"),
        pytest.param(
            Gpu("Tesla K80", (3, 7), 12 * GB, 11 * GB),
            "float16",
            "capability 3.7 computes none",
            id="float16 on a K80",
        ),
    ],
)
def test_a_precision_that_a_gpu_has_not_is_refused(attached, gpu, precision, message):
    attached(gpu, architectures=EVERY)
    with pytest.raises(RelayError, match=f"PRECISION {precision}: .*{message}"):
        choose_device("cuda", precision)


@pytest.mark.parametrize(
    ("gpu", "precision", "tells"),
    [
        (A100, "auto", True),
        (A100, "float32", True),
        (A100, "float16", True),
        (T4, "auto", False),
        (T4, "float32", False),
    ],
)
def test_it_is_told_that_convolutions_use_tf32(attached, gpu, precision, tells):
    """From Ampere on: evaluation is float32 in every precision, and PRECISION float32 is asked."""
    attached(gpu)
    reason = choose_device("auto", precision).reason
    sentence = "convolutions in float32, as in evaluation, use TF32; matrix products do not"
    assert (sentence in reason) == tells
    plain = module.plainly(choose_device("auto", precision)).reason
    assert plain.endswith("; plain: asked for")
    assert "channels last" not in plain
    assert (sentence in plain) == tells


@pytest.mark.parametrize(("value", "tells"), [("expandable_segments:True", True), ("", False)])
def test_how_the_memory_is_set_up_is_told(attached, monkeypatch, value, tells):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", value)
    attached(T4)
    reason = choose_device("auto").reason
    assert ("; memory: expandable_segments:True; channels last" in reason) == tells


@pytest.mark.gpu
@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:0"])
def test_a_gpu_is_taken_where_there_is_one(asked):
    chosen = choose_device(asked)
    assert chosen.device.type == "cuda"
    assert chosen.name == torch.cuda.get_device_name(0)
    capability = torch.cuda.get_device_capability(0)
    old = torch.float16 if capability >= (7, 0) else torch.float32
    assert chosen.dtype == (torch.bfloat16 if capability >= (8, 0) else old)
    assert 0 < chosen.memory_free <= chosen.memory_total


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        pytest.param("cuda:99", "auto", "DEVICE cuda:99: cannot be used", id="no such GPU"),
        pytest.param(
            "gpu", "auto", "^DEVICE gpu: take auto, cpu, cuda or mps.$", id="no such kind"
        ),
        pytest.param("", "auto", "DEVICE '': take auto", id="empty"),
        pytest.param("cpu", "float8", "PRECISION float8: unknown", id="no such precision"),
    ],
)
def test_mistakes_are_explained(device, precision, message):
    with pytest.raises(RelayError, match=message) as caught:
        choose_device(device, precision)
    assert "\n" not in str(caught.value)
