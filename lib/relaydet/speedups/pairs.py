"""Which norm follows which convolution, seen by running a backbone on a small image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

_SIDE = 64
"""Pixels of that image."""
_ALIKE = 1e-3
"""Relative difference that rounding makes at most in a deep network."""


def convolutions_and_norms(backbone: nn.Module) -> list[tuple[nn.Conv2d, Any]]:
    """Each convolution with the norm that alone takes what it makes, where both are called once."""
    made: dict[int, nn.Conv2d] = {}
    takers: dict[int, list[nn.Module]] = {}
    calls: dict[nn.Module, int] = {}
    alive: list[Any] = []  # an id is one object's only as long as the object lives

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        alive.extend([inputs, output])
        for tensor in inputs:
            takers.setdefault(id(tensor), []).append(module)
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module

    leaves = [module for module in backbone.modules() if not list(module.children())]
    handles = [module.register_forward_hook(watch) for module in leaves]
    try:
        _maps(backbone)
    finally:
        for handle in handles:
            handle.remove()
    pairs = []
    for tensor, conv in made.items():
        mine = takers.get(tensor, [])
        if len(mine) == 1 and _is_norm(mine[0]) and calls[conv] == calls[mine[0]] == 1:
            pairs.append((conv, mine[0]))
    return pairs


def same_maps(backbone: nn.Module, change: Callable[[], None]) -> bool:
    """Whether a backbone says the same, but for rounding, once it is changed."""
    before = _maps(backbone)
    change()
    return all(
        torch.allclose(a, b, rtol=_ALIKE, atol=_ALIKE * float(a.abs().max()))
        for a, b in zip(before, _maps(backbone), strict=True)
    )


def _maps(backbone: nn.Module) -> list[torch.Tensor]:
    some = next(backbone.parameters())
    image = torch.rand(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), _in_evaluation(backbone):
        output = backbone(image.to(some.device, some.dtype))
    return list(output.values()) if isinstance(output, dict) else [output]


@contextmanager
def _in_evaluation(backbone: nn.Module) -> Iterator[None]:
    """Without changing the statistics of norms that train."""
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _is_norm(module: nn.Module) -> bool:
    trained = isinstance(module, nn.BatchNorm2d) and module.track_running_stats
    return isinstance(module, FrozenBatchNorm2d) or trained
