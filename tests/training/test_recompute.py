"""Recomputed activations: less is kept, and losses and gradients are the same to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch

from relaydet.data.order import share_of
from relaydet.errors import RelayError
from relaydet.model import build_model
from relaydet.runtime.device import choose_device
from relaydet.speedups import speed_up
from relaydet.training.loop import Learner, train_steps
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.recompute import recompute_backbone
from relaydet.training.restore import equip
from relaydet.training.sampling import key_samplers
from relaydet.training.schedule import Schedule

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


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_resnet50_at_800_px_trains_in_8_gb(recompute):
    """The floor-plan team's limit, on whatever card: its allocator gets 8 GB and no more."""
    device = choose_device("cuda")
    total = torch.cuda.get_device_properties(device.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 8e9 / total), device.device)
    try:
        built = build_model("resnet50_fpn", ["person"], "none", frozen=True)
        if recompute:
            recompute_backbone(built.model)
        optimizer, scaler = equip(built, device)
        position = key_samplers(built.model, 0)
        learner = Learner(built.model, optimizer, position, device, scaler)
        image_CHW = torch.zeros(3, 800, 1333, dtype=torch.uint8)
        target = {"boxes": torch.tensor([[40.0, 40.0, 200.0, 280.0]]), "labels": torch.tensor([1])}
        batches = [(share_of(8, 0, 1), [(image_CHW, target)] * 8)] * 3
        schedule = Schedule("steps", 1e-4, 3, 1, (), 0.1)
        said: list[str] = []
        done = list(train_steps(learner, batches, schedule, 0, MicroBatch(8), said.append))
        assert [step.step for step in done] == [1, 2, 3]
        assert torch.cuda.max_memory_reserved(device.device) <= 8e9
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.device)
        torch.cuda.empty_cache()
