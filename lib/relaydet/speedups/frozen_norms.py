"""Norms that do not change, done by the convolutions before them while those train.

A frozen norm multiplies each channel by a number and adds one. Multiplying the convolution's weight
instead gives the same output and the same gradient of that weight, and saves two passes over every
feature map forward and one backward. Names and values in the state dict stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from relaydet.speedups.pairs import convolutions_and_norms, same_maps


def join_frozen_norms(backbone: nn.Module) -> int:
    """Let convolutions do the work of the frozen norms that follow them.

    Args:
        backbone: its convolutions and norms then work in another way; left alone where that would
            say something else.

    Returns:
        How many norms that were.
    """
    pairs = [
        (conv, norm)
        for conv, norm in convolutions_and_norms(backbone)
        if isinstance(norm, FrozenBatchNorm2d)
    ]
    if not pairs or not same_maps(backbone, lambda: _join(pairs)):
        _part(pairs)
        return 0
    return len(pairs)


@dataclass(frozen=True, eq=False)
class _Joined:
    """What such a convolution does."""

    conv: nn.Conv2d
    norm: FrozenBatchNorm2d

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        conv, norm = self.conv, self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        return conv._conv_forward(x, conv.weight * scale[:, None, None, None], shift)


def _join(pairs: list[tuple[nn.Conv2d, FrozenBatchNorm2d]]) -> None:
    for conv, norm in pairs:
        vars(conv)["forward"] = _Joined(conv, norm)
        vars(norm)["forward"] = _unchanged


def _part(pairs: list[tuple[nn.Conv2d, FrozenBatchNorm2d]]) -> None:
    for module in (module for pair in pairs for module in pair):
        vars(module).pop("forward", None)


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x
