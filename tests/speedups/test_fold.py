"""Norms folded into convolutions: the same detections, and never where it would be wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from relaydet.model import build_model
from relaydet.speedups.fold import folded


def norms(model: nn.Module) -> int:
    kinds = (nn.BatchNorm2d, FrozenBatchNorm2d)
    return sum(isinstance(module, kinds) for module in model.backbone.modules())


def with_history(model: nn.Module) -> nn.Module:
    """As if it had been trained: no norm is the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for name, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.2, 0.2),
                ("running_mean", -0.2, 0.2),
                ("running_var", 0.5, 2.0),
            ):
                tensor = getattr(module, name)
                tensor.data = torch.empty_like(tensor).uniform_(low, high, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "frozen", "left"),
    [
        ("small", False, 0),
        ("resnet18", True, 0),
        ("mobilenet_v2", False, 0),
        ("mobilenet_v3_large_320_fpn", True, 0),
    ],
)
def test_a_folded_detector_says_the_same(name, frozen, left):
    built = build_model(name, ["person"], "none", image_size=96, frozen=frozen, seed=1)
    model = with_history(built.model)
    image = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(2))
    before = norms(model)
    assert before > 5
    faster = folded(model)
    assert norms(faster) == left
    assert norms(model) == before, "what was given is left as it is"
    with torch.inference_mode():
        ours, theirs = faster.backbone(image), model.backbone(image)
    for name in theirs:
        size = float(theirs[name].abs().max())
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4 * size, rtol=0)
    model.roi_heads.score_thresh = faster.roi_heads.score_thresh = 0.0
    with torch.inference_mode():
        (ours,), (theirs,) = faster([image[0]]), model([image[0]])
    torch.testing.assert_close(ours["scores"], theirs["scores"], atol=1e-4, rtol=0)


class Body(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.kind = kind

    def forward(self, x):
        y = self.conv(x)
        match self.kind:
            case "plain":
                return self.norm(y)
            case "added to":  # no module sees that the convolution's output is used again
                return self.norm(y) + y
            case "called twice":
                return self.norm(self.norm(y))
            case "by another way":
                return self.norm(y * 2)


class Detector(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.backbone = body


@pytest.mark.parametrize(
    ("kind", "folds"),
    [("plain", True), ("added to", False), ("called twice", False), ("by another way", False)],
)
def test_a_norm_that_cannot_be_folded_stays(kind, folds):
    torch.manual_seed(0)
    model = with_history(Detector(Body(kind)))
    image = torch.rand(1, 3, 9, 9)
    result = folded(model)
    assert norms(result) == (0 if folds else 1)
    with torch.no_grad():
        torch.testing.assert_close(result.backbone(image), model.backbone(image))


def test_norms_without_history_stay():
    body = Body("plain")
    body.norm = nn.BatchNorm2d(4, track_running_stats=False)
    model = Detector(body).eval()
    assert norms(folded(model)) == 1


def test_what_has_no_backbone_is_left_alone():
    model = nn.Linear(1, 1)
    assert folded(model) is model
