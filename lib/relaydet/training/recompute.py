"""Activations of the backbone that are computed again in the backward pass instead of kept.

Source: Chen et al., "Training deep nets with sublinear memory cost", 2016, by way of
torch.utils.checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.detection import FasterRCNN

from relaydet.errors import RelayError
from relaydet.training.micro_batch import norm_buffers


def recompute_backbone(model: FasterRCNN) -> None:
    """Keep only what goes into each block of the body; losses and gradients stay the same.

    Args:
        model: its blocks that train then work in another way. State dict and parameters stay.

    Raises:
        RelayError: batch norms train, and would count every image twice.
    """
    if norm_buffers(model):
        raise RelayError(
            "RECOMPUTE: this model's batch norms train, and would count every image twice; set it"
            " to False, or start from published weights, whose norms stay as they are."
        )
    for block in _blocks(model.backbone.body):
        # A single operation keeps its input either way, and may work in another way already.
        several = any(True for _ in block.children())
        if several and any(parameter.requires_grad for parameter in block.parameters()):
            vars(block)["forward"] = _Recomputed(block)


def _blocks(body: nn.Module) -> Iterator[nn.Module]:
    """The body's layers; those that are mere lists, such as a ResNet's stages, one by one."""
    for layer in body.children():
        if type(layer) is nn.Sequential:
            yield from layer.children()
        else:
            yield layer


@dataclass(frozen=True, eq=False)
class _Recomputed:
    """What such a block does."""

    block: nn.Module

    def __call__(self, *given: Any) -> Any:
        forward = type(self.block).forward
        if not torch.is_grad_enabled():
            return forward(self.block, *given)
        return checkpoint(forward, self.block, *given, use_reentrant=False)
