"""Whether the faster ways are taken, and left out where PLAIN asks for it."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from relaydet.config import BenchConfig
from relaydet.model import build_model
from relaydet.runtime.detect import detect
from relaydet.speedups.roi_align import SparseRoIAlign
from relaydet.training.members import device_of
from relaydet.training.restore import equip
from relaydet.training.team import ALONE


@pytest.mark.parametrize(("plain", "kind"), [(True, MultiScaleRoIAlign), (False, SparseRoIAlign)])
def test_plain_leaves_torchvisions_parts_in_place(plain, kind):
    device = device_of(ALONE, BenchConfig(device="cpu", plain=plain), detect())
    built = build_model("small", ["person"], "none", 64)
    names = list(built.model.state_dict())
    equip(built, device)
    assert type(built.model.roi_heads.box_roi_pool) is kind
    assert list(built.model.state_dict()) == names


def test_plain_is_float32_unless_another_precision_is_asked_for():
    for precision, wanted in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        config = BenchConfig(device="cpu", precision=precision, plain=True)
        device = device_of(ALONE, config, detect())
        assert (device.dtype, device.quick, device.channels_last) == (wanted, False, False)
        assert device.reason.endswith("plain: asked for")
