"""Which errors mean that a device's memory is full."""

from __future__ import annotations

import pytest
import torch

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
