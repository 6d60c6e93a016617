"""Which errors mean that a device's memory is full."""

from __future__ import annotations

import os

import pytest
import torch

from relaydet.runtime import memory
from relaydet.runtime.memory import give_back, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "means_it"),
    [
        pytest.param(torch.cuda.OutOfMemoryError("tried to allocate"), True, id="CUDA's allocator"),
        pytest.param(RuntimeError("CUDA error: out of memory"), True, id="CUDA"),
        pytest.param(
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            True,
            id="cuBLAS",
        ),
        pytest.param(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, id="cuDNN 8"),
        pytest.param(
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            True,
            id="cuDNN 9",
        ),
        pytest.param(RuntimeError("MPS backend out of memory (MPS allocated"), True, id="Apple"),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"),
            True,
            id="CPU",
        ),
        pytest.param(RuntimeError("CUDA error: no kernel image is available"), False, id="kernels"),
        pytest.param(RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED"), False, id="cuBLAS, other"),
        pytest.param(ValueError("out of memory"), False, id="another kind"),
    ],
)
def test_an_error_says_whether_memory_is_full(error, means_it):
    assert is_out_of_memory(error) is means_it


def test_a_real_allocation_that_fails_is_one():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_giving_back_where_nothing_is_cached_does_no_harm():
    give_back(torch.device("cpu"))


@pytest.mark.parametrize(
    ("set_before", "torch_version", "there", "initialised", "expected"),
    [
        pytest.param({}, "2.14.1+cu130", True, False, "expandable_segments:True", id="ours"),
        pytest.param({}, "2.2.0", True, False, "expandable_segments:True", id="the oldest"),
        pytest.param({}, "2.0.1", True, False, "", id="torch knows no such setting"),
        pytest.param({}, "2.14.1", False, False, "", id="no CUDA"),
        pytest.param({}, "2.14.1", True, True, "", id="too late"),
        *(
            pytest.param({name: "backend:native"}, "2.14.1", True, False, "backend:native", id=name)
            for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
        ),
    ],
)
def test_segments_grow_unless_the_user_has_set_the_allocator_up(
    monkeypatch, set_before, torch_version, there, initialised, expected
):
    for name in memory._SETTINGS:
        # Set first, so that what the code sets is taken back after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "__version__", torch_version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised)
    monkeypatch.setattr("relaydet.compat.sys.platform", "linux")
    memory.grow_segments()
    assert memory.allocator_settings() == expected
    left = {name: os.environ[name] for name in memory._SETTINGS if name in os.environ}
    assert left == (set_before or ({"PYTORCH_CUDA_ALLOC_CONF": expected} if expected else {}))
