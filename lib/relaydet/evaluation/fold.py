"""Batch norms that do not change any more, worked into the convolutions before them.

A norm in evaluation multiplies each channel by a number and adds one; a convolution can do both on
the way (Jacob et al., Quantization and Training of Neural Networks for Efficient Inference, 2018,
section 3.2). That saves a pass over every feature map.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d

_SIDE = 64
"""Pixels of the image that shows which convolution a norm follows."""
_ALIKE = 1e-3
"""Relative difference that rounding makes at most in a deep network."""


def folded(model: FasterRCNN) -> FasterRCNN:
    """The detector with its backbone's norms folded into its convolutions.

    Which belong together is seen by running the backbone: a norm is folded where what it gets is
    the very tensor that a convolution made, each of them is called once, and no other module was
    handed that tensor. A backbone that says something else afterwards is left as it was.

    Args:
        model: in evaluation; it is left as it is.
    """
    body = getattr(model, "backbone", None)
    if body is None:
        return model
    result = copy.deepcopy(model)
    some = next(body.parameters())
    image = torch.rand(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    image = image.to(some.device, some.dtype)
    for conv, norm in _pairs(result.backbone, image):
        _fold(conv, norm)
        _replace(result.backbone, norm)
    with torch.no_grad():
        before, after = _maps(body(image)), _maps(result.backbone(image))
    alike = all(
        torch.allclose(a, b, rtol=_ALIKE, atol=_ALIKE * float(a.abs().max()))
        for a, b in zip(before, after, strict=True)
    )
    return result if alike else model


def _maps(output: Any) -> list[torch.Tensor]:
    return list(output.values()) if isinstance(output, dict) else [output]


def _pairs(body: nn.Module, image: torch.Tensor) -> list[tuple[nn.Conv2d, nn.Module]]:
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

    leaves = [module for module in body.modules() if not list(module.children())]
    handles = [module.register_forward_hook(watch) for module in leaves]
    try:
        with torch.no_grad():
            body(image)
    finally:
        for handle in handles:
            handle.remove()
    pairs = []
    for tensor, conv in made.items():
        mine = takers.get(tensor, [])
        if len(mine) == 1 and _is_norm(mine[0]) and calls[conv] == calls[mine[0]] == 1:
            pairs.append((conv, mine[0]))
    return pairs


def _is_norm(module: nn.Module) -> bool:
    trained = isinstance(module, nn.BatchNorm2d) and module.track_running_stats
    return isinstance(module, FrozenBatchNorm2d) or trained


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: Any) -> None:
    """In float64, so that nothing but the last rounding is new."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    shift = shift if norm.bias is None else shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)


def _replace(body: nn.Module, norm: nn.Module) -> None:
    for module in body.modules():
        for name, child in module.named_children():
            if child is norm:
                setattr(module, name, nn.Identity())
