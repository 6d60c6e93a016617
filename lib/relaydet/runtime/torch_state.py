"""torch's process-wide switches: set to what exactness needs for the time of a job, then put back.

A notebook's earlier cell may have left any of them: gradients off, float64 or another device as the
default, autocast on, faster and coarser matrix products. A run must have the same bits after it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils import deterministic as filling

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_DENORMAL = 1e-40
"""A float32 that is not zero unless denormal numbers are flushed."""


@contextmanager
def own_torch_state(deterministic: bool = False) -> Iterator[None]:
    """Compute as in a fresh process, whatever an earlier cell left; put everything back afterwards.

    Also put back is the random state, which training sets by position.

    Args:
        deterministic: use deterministic algorithms alone; on CUDA, cuBLAS is set as well.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        _settle_autocast(stack)
        _settle_default_device(stack)
        _settle_random(stack)
        _settle(stack, torch.get_default_dtype, torch.set_default_dtype, torch.float32)
        _settle(stack, torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False)
        _settle(stack, _flushes, torch.set_flush_denormal, False)
        _settle(
            stack,
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
            "highest",
        )
        _settle_algorithms(stack, deterministic)
        for place, name, value in _switches(deterministic):
            _settle_attribute(stack, place, name, value)
        yield


def _switches(deterministic: bool) -> list[tuple[Any, str, Any]]:
    """Where a switch is, its name, and what a fresh process has."""
    backends = torch.backends
    return [
        (backends.cudnn, "enabled", True),
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "deterministic", deterministic),
        (backends.cudnn, "allow_tf32", True),
        (backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", True),
        (backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
        (backends.mkldnn, "enabled", True),
        (filling, "fill_uninitialized_memory", True),
    ]


def _settle(
    stack: ExitStack, get: Callable[[], Any], put: Callable[[Any], Any], value: Any
) -> None:
    before = get()
    if before != value:
        stack.callback(put, before)
        put(value)


def _settle_attribute(stack: ExitStack, place: Any, name: str, value: Any) -> None:
    if hasattr(place, name):  # not every release has each
        _settle(stack, lambda: getattr(place, name), lambda told: setattr(place, name, told), value)


def _settle_autocast(stack: ExitStack) -> None:
    """Off, and as outside of any: only the outermost autocast forgets the weights that it cast.

    Training enters one for each forward pass. Inside another one, be it a disabled one, it would
    compute with the first step's weights for ever.
    """
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    for _ in range(depth):
        torch.autocast_decrement_nesting()
        stack.callback(torch.autocast_increment_nesting)
    torch.clear_autocast_cache()
    if _is_autocast_on_cpu():
        _set_autocast_on_cpu(False)
        stack.callback(_set_autocast_on_cpu, True)
    _settle(stack, torch.is_autocast_enabled, torch.set_autocast_enabled, False)
    _settle(stack, torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, True)


def _is_autocast_on_cpu() -> bool:
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # before torch 2.4
        return torch.is_autocast_cpu_enabled()


def _set_autocast_on_cpu(on: bool) -> None:
    try:
        torch.set_autocast_enabled("cpu", on)
    except TypeError:  # before torch 2.4
        torch.set_autocast_cpu_enabled(on)


def _settle_default_device(stack: ExitStack) -> None:
    # Only where it is needed: each call of torch then takes a little longer.
    if torch.empty(0).device.type != "cpu":
        stack.enter_context(torch.device("cpu"))


def _settle_random(stack: ExitStack) -> None:
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())


def _settle_algorithms(stack: ExitStack, deterministic: bool) -> None:
    stack.callback(
        torch.use_deterministic_algorithms,
        torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if deterministic and _CUBLAS not in os.environ:
        # cuBLAS reads it when CUDA is first used, and refuses deterministic mode without it.
        os.environ[_CUBLAS] = ":4096:8"
        stack.callback(os.environ.pop, _CUBLAS, None)
    torch.use_deterministic_algorithms(deterministic)


def _flushes() -> bool:
    return bool((torch.tensor([_DENORMAL], dtype=torch.float32, device="cpu") * 1 == 0).item())
