"""Recomputed activations: less is kept, and losses and gradients are the same to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch

from relaydet.errors import RelayError
from relaydet.model import build_model
from relaydet.speedups import speed_up
from relaydet.training.recompute import recompute_backbone
from relaydet.training.sampling import key_samplers

IMAGES = [torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(i)) for i in range(2)]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([1])} for _ in IMAGES
]


def detector(name: str, frozen: bool = True):
    """In training, as a session has it."""
    model = build_model(name, ["person"], "none", 64, frozen=frozen).model
    speed_up(model)
    return model


def step(model):
    """Losses and gradients of one step, and the bytes that the forward pass kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    key_samplers(model, seed=0).enter(0, 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model(IMAGES, TARGETS)
    size = sum(kept.values())
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return losses, gradients, size


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large_320_fpn", "convnext_tiny"])
def test_gradients_are_the_same_and_less_is_kept(name):
    model = detector(name)
    other = copy.deepcopy(model)
    recompute_backbone(other)
    losses, gradients, kept = step(model)
    again, same, kept_less = step(other)
    assert {k: float(v.detach()) for k, v in losses.items()} == {
        k: float(v.detach()) for k, v in again.items()
    }
    assert gradients.keys() == same.keys()
    assert [n for n in gradients if not torch.equal(gradients[n], same[n])] == []
    assert kept_less < kept
    assert list(other.state_dict()) == list(model.state_dict())


def test_detections_are_the_same():
    model = detector("resnet18").eval()
    other = copy.deepcopy(model)
    recompute_backbone(other)
    with torch.inference_mode():
        for mine, theirs in zip(model(IMAGES), other(IMAGES), strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_norms_that_train_are_refused():
    with pytest.raises(RelayError, match=r"RECOMPUTE: .* batch norms train"):
        recompute_backbone(detector("small", frozen=False))
