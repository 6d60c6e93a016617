"""Convolutions that do the work of the frozen norms after them: same maps, same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from relaydet.model import build_model
from relaydet.speedups.frozen_norms import join_frozen_norms


def trained(name: str) -> nn.Module:
    """A backbone whose norms are not the identity."""
    backbone = build_model(name, ["a"], "none", 64, frozen=True).model.backbone
    generator = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.uniform_(-0.1, 0.1, generator=generator)
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    return backbone


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("resnet50_fpn", 53),
        ("mobilenet_v3_large_320_fpn", 46),
        ("resnet50_fpn_v2", 53),
        ("resnet18", 20),
    ],
)
def test_maps_and_gradients_stay(name, norms):
    plain = trained(name).double().train()
    joined = copy.deepcopy(plain)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    assert join_frozen_norms(joined) == norms
    image = torch.rand(2, 3, 96, 64, dtype=torch.float64)
    for backbone in (plain, joined):
        sum(m.square().mean() for m in backbone(image).values()).backward()
    for (key, a), (_, b) in zip(plain.named_parameters(), joined.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-12, msg=key)
    for key, value in joined.state_dict().items():
        if "num_batches" not in key and not ("running" in key and name.endswith("v2")):
            torch.testing.assert_close(value, before[key], rtol=0, atol=0, msg=key)


def test_norms_that_train_are_left_alone():
    backbone = build_model("resnet18", ["a"], "none", 64, frozen=False).model.backbone
    before = copy.deepcopy(backbone.state_dict())
    assert join_frozen_norms(backbone) == 0
    assert all(module.training for module in backbone.modules())
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_copy_is_joined_to_its_own_norms():
    backbone = trained("resnet18")
    join_frozen_norms(backbone)
    other = copy.deepcopy(backbone)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(image)["0"].clone()
        for parameter in backbone.parameters():
            parameter.zero_()
        assert torch.equal(other(image)["0"], before)


class Twice(nn.Module):
    """Whose convolution's output is used beside the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)
        self.norm.running_mean.fill_(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.conv(x)
        return self.norm(made) + made


def test_what_would_say_something_else_is_left_alone():
    net, image = Twice(), torch.rand(1, 3, 8, 8)
    before = net(image)
    assert join_frozen_norms(net) == 0
    assert torch.equal(net(image), before)
