"""Batch norms that do not change any more, worked into the convolutions before them.

A norm in evaluation multiplies each channel by a number and adds one; a convolution can do both on
the way (Jacob et al., Quantization and Training of Neural Networks for Efficient Inference, 2018,
section 3.2). That saves a pass over every feature map.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN

from relaydet.speedups.pairs import convolutions_and_norms, same_maps


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
    pairs = convolutions_and_norms(result.backbone)
    return result if same_maps(result.backbone, lambda: _work_in(result, pairs)) else model


def _work_in(model: FasterRCNN, pairs: Sequence[tuple[nn.Conv2d, Any]]) -> None:
    for conv, norm in pairs:
        _fold(conv, norm)
        _replace(model.backbone, norm)


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
