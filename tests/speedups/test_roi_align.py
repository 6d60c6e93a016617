"""RoIAlign by a sparse matrix: torchvision's values and gradients, for any region."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import MultiScaleRoIAlign

from relaydet.speedups.roi_align import SparseRoIAlign

SIZE = (96, 160)
STRIDES = (4, 8, 16, 32)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def pool_of(samples: int = 2, bins: int = 7, strides=STRIDES) -> MultiScaleRoIAlign:
    """A pool whose scales are settled."""
    pool = MultiScaleRoIAlign([str(s) for s in strides], bins, samples, canonical_scale=64)
    maps = {str(s): torch.zeros(1, 1, SIZE[0] // s, SIZE[1] // s) for s in strides}
    pool(maps, [torch.zeros(0, 4)], [SIZE])
    return pool


def maps_of(images: int = 2, channels: int = 5, strides=STRIDES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        str(s): torch.randn(
            images, channels, SIZE[0] // s, SIZE[1] // s, generator=generator
        ).requires_grad_()
        for s in strides
    }


def both(
    pool: MultiScaleRoIAlign, boxes: list[torch.Tensor], **options
) -> list[list[torch.Tensor]]:
    """Values and gradients, of torchvision's pool and of ours."""
    found = []
    for way in (pool, SparseRoIAlign(pool)):
        maps = maps_of(len(boxes), **options)
        values = way(maps, boxes, [SIZE] * len(boxes))
        weights = torch.linspace(-1, 1, values.numel()).reshape(values.shape)
        (values * weights).sum().backward()
        grads = [m.grad if m.grad is not None else torch.zeros_like(m) for m in maps.values()]
        found.append([values.detach(), *grads])
    return found


side = st.floats(-40, 200, width=32)
box = st.tuples(side, side, side, side).map(
    lambda c: [min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(box, max_size=4), min_size=1, max_size=3).filter(any),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 7]),
)
def test_values_and_gradients_are_torchvisions(boxes, samples, bins):
    tensors = [torch.tensor(mine).reshape(-1, 4) for mine in boxes]
    theirs, ours = both(pool_of(samples, bins), tensors)
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(b, a, **CLOSE)


@pytest.mark.parametrize(
    "corners",
    [
        (10.0, 10.0, 10.0, 10.0),
        (0.0, 0.0, 160.0, 96.0),
        (-300.0, -300.0, -200.0, -200.0),
        (155.0, 90.0, 400.0, 300.0),
        (159.99, 95.99, 160.0, 96.0),
    ],
    ids=["no size", "the whole image", "outside", "over the edge", "in the corner"],
)
def test_odd_regions(corners):
    for a, b in zip(*both(pool_of(), [torch.tensor([corners])]), strict=True):
        torch.testing.assert_close(b, a, **CLOSE)


def test_one_level_and_no_region():
    pool = pool_of(strides=(8,))
    for a, b in zip(*both(pool, [torch.tensor([[1.0, 2, 90, 60]])], strides=(8,)), strict=True):
        torch.testing.assert_close(b, a, **CLOSE)
    values = SparseRoIAlign(pool)(maps_of(1, strides=(8,)), [torch.zeros(0, 4)], [SIZE])
    assert values.shape == (0, 5, 7, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_result_has_the_maps_type(dtype):
    pool, boxes = pool_of(), [torch.tensor([[3.0, 4, 60, 70]])]
    maps = {name: m.detach().to(dtype) for name, m in maps_of(1).items()}
    values = SparseRoIAlign(pool)(maps, boxes, [SIZE])
    assert values.dtype == dtype
    wanted = pool({name: m.float() for name, m in maps.items()}, boxes, [SIZE])
    torch.testing.assert_close(values.float(), wanted, rtol=1e-2, atol=1e-2)


def test_the_same_bits_every_time():
    boxes = [torch.rand(40, 4).cumsum(1) * 40 for _ in range(2)]
    first, again = both(pool_of(), boxes)[1], both(pool_of(), boxes)[1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
