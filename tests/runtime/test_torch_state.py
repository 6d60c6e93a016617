"""Whatever an earlier cell left of torch's switches, a job computes as in a fresh process."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from relaydet.runtime.torch_state import own_torch_state


def read() -> dict[str, object]:
    """All switches that reach a job's numbers."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device.type,
        "autocast": torch.is_autocast_cpu_enabled(),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.enabled,
        "cudnn deterministic": torch.backends.cudnn.deterministic,
        "tf32": torch.backends.cudnn.allow_tf32,
        "mkldnn": torch.backends.mkldnn.enabled,
        "anomaly": torch.is_anomaly_enabled(),
        "denormal": bool(torch.tensor([1e-40], dtype=torch.float32, device="cpu") * 1 == 0),
    }


FRESH = read()


@contextmanager
def left(switch):
    """One switch as a cell left it; as it was afterwards."""
    undo = switch()
    try:
        yield
    finally:
        undo()


def grad():
    torch.set_grad_enabled(False)
    return lambda: torch.set_grad_enabled(True)


def dtype():
    torch.set_default_dtype(torch.float64)
    return lambda: torch.set_default_dtype(torch.float32)


def device():
    torch.set_default_device("meta")
    return lambda: torch.set_default_device(None)


def around(make):
    """A `with` around the call."""

    def enter():
        context = make()
        context.__enter__()
        return lambda: context.__exit__(None, None, None)

    return enter


def algorithms():
    torch.use_deterministic_algorithms(True, warn_only=True)
    return lambda: torch.use_deterministic_algorithms(False)


def matmul():
    torch.set_float32_matmul_precision("medium")
    return lambda: torch.set_float32_matmul_precision("highest")


def cudnn():
    flags = torch.backends.cudnn
    before = (flags.benchmark, flags.enabled, flags.deterministic, flags.allow_tf32)
    flags.benchmark, flags.enabled, flags.deterministic, flags.allow_tf32 = True, False, True, False

    def undo():
        flags.benchmark, flags.enabled, flags.deterministic, flags.allow_tf32 = before

    return undo


def denormal():
    torch.set_flush_denormal(True)
    return lambda: torch.set_flush_denormal(False)


SWITCHES = {
    "gradients off": grad,
    "float64": dtype,
    "another device": device,
    "with torch.device": around(lambda: torch.device("meta")),
    "with torch.inference_mode": around(torch.inference_mode),
    "with torch.autocast": around(lambda: torch.autocast("cpu", torch.bfloat16)),
    "deterministic algorithms": algorithms,
    "coarse products": matmul,
    "cudnn": cudnn,
    "anomalies": around(lambda: torch.autograd.set_detect_anomaly(True)),
    "denormal numbers": denormal,
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_as_in_a_fresh_process_and_then_as_it_was(name):
    with left(SWITCHES[name]):
        before = read()
        assert before != FRESH
        with own_torch_state():
            assert read() == FRESH
        assert read() == before
    assert read() == FRESH


def test_all_is_put_back_after_an_error_too():
    def fail():
        with own_torch_state(deterministic=True):
            raise RuntimeError("the GPU fell off the bus")

    with left(dtype), left(grad):
        before = read()
        with pytest.raises(RuntimeError, match="fell off"):
            fail()
        assert read() == before


def test_deterministic_algorithms_are_as_the_configuration_says(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with own_torch_state(deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_random_state_of_later_cells_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    with own_torch_state():
        torch.manual_seed(4)
        torch.rand(7)
    assert torch.rand(2).tolist() == expected


@pytest.mark.parametrize("outside", [False, True], ids=["plain", "in another autocast"])
def test_autocast_forgets_the_weights_that_it_cast_after_each_pass(outside):
    """Only the outermost one does; a stale copy would be trained against for ever."""
    layer, ones = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=outside), own_torch_state():
        for weight in (1.0, 2.0):
            with torch.no_grad():
                layer.weight.fill_(weight)
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(ones).item() == weight
