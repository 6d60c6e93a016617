"""Device and precision: what is decided, and why."""

from __future__ import annotations

import pytest
import torch

from relaydet.errors import RelayError
from relaydet.runtime import device as module
from relaydet.runtime.device import choose_device


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
    chosen = choose_device("cpu", precision)
    assert (chosen.device, chosen.dtype) == (torch.device("cpu"), dtype)
    assert chosen.name.startswith("CPU, ")
    assert chosen.reason.startswith("asked for; ")
    assert chosen.reason.endswith(why)


def test_without_a_gpu_the_cpu_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    chosen = choose_device()
    assert chosen.device.type == "cpu"
    assert chosen.reason.startswith("no GPU is attached; ")


@pytest.mark.gpu
@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:0"])
def test_a_gpu_is_taken_where_there_is_one(asked):
    chosen = choose_device(asked)
    assert chosen.device.type == "cuda"
    assert chosen.name == torch.cuda.get_device_name(0)
    native = torch.cuda.get_device_capability(0) >= (8, 0)
    assert chosen.dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        pytest.param("cuda:99", "auto", "DEVICE cuda:99: cannot be used", id="no such GPU"),
        pytest.param("gpu", "auto", "DEVICE gpu: cannot be used", id="no such kind"),
        pytest.param("", "auto", "DEVICE : cannot be used", id="empty"),
        pytest.param("cpu", "float16", "PRECISION float16: unknown", id="no such precision"),
    ],
)
def test_mistakes_are_explained(device, precision, message):
    with pytest.raises(RelayError, match=message) as caught:
        choose_device(device, precision)
    assert "\n" not in str(caught.value)
