"""Keyed sampling: torchvision's counts, and choices that depend on the position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from relaydet.model import build_model
from relaydet.randomness import keyed_bits
from relaydet.training.sampling import KeyedSampler, Position, key_samplers


def matched(positive: int, negative: int, ignored: int) -> torch.Tensor:
    """Matches of one image in a shuffled order; positives carry the numbers 1, 2, ..."""
    labels = torch.cat([torch.arange(1, positive + 1), torch.zeros(negative), -torch.ones(ignored)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    return labels[order].long()


IMAGES = [matched(9, 60, 5), matched(0, 30, 2), matched(40, 3, 0), matched(9, 60, 5)]


def sample(images, step=0, first_image=0, seed=0, stream=4, size=16, fraction=0.25):
    position = Position(seed)
    position.enter(step, first_image)
    positives, negatives = KeyedSampler(size, fraction, stream, position)(images)
    return [torch.stack(pair) for pair in zip(positives, negatives, strict=True)]


@pytest.mark.parametrize(
    ("counts", "size", "fraction", "expected"),
    [
        pytest.param((20, 100, 10), 16, 0.25, (4, 12), id="plenty of both"),
        pytest.param((2, 100, 10), 16, 0.25, (2, 14), id="few positives are filled up"),
        pytest.param((20, 5, 10), 16, 0.25, (4, 5), id="few negatives are not"),
        pytest.param((0, 100, 0), 16, 0.5, (0, 16), id="no positive"),
        pytest.param((5, 0, 3), 16, 0.5, (5, 0), id="no negative"),
        pytest.param((0, 0, 9), 16, 0.5, (0, 0), id="all ignored"),
        pytest.param((0, 0, 0), 16, 0.5, (0, 0), id="nothing there"),
        pytest.param((50, 50, 0), 5, 0.5, (2, 3), id="odd size"),
    ],
)
def test_as_many_are_chosen_as_by_torchvision(counts, size, fraction, expected):
    image = matched(*counts)
    ((positive, negative),) = sample([image], size=size, fraction=fraction)
    theirs = BalancedPositiveNegativeSampler(size, fraction)([image])
    assert (int(positive.sum()), int(negative.sum())) == expected
    assert [int(mask.sum()) for (mask,) in theirs] == list(expected)
    assert {mask.dtype for (mask,) in theirs} == {positive.dtype, negative.dtype}
    assert (image[positive.bool()] >= 1).all()
    assert (image[negative.bool()] == 0).all()


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (3, 1)], ids=str)
def test_the_micro_batch_changes_no_choice(sizes):
    together = sample(IMAGES, step=7)
    apart, first = [], 0
    for size in sizes:
        apart += sample(IMAGES[first : first + size], step=7, first_image=first)
        first += size
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))


def test_the_global_generators_are_not_read():
    torch.manual_seed(1)
    first = sample(IMAGES)
    torch.rand(100)
    assert all(torch.equal(a, b) for a, b in zip(first, sample(IMAGES), strict=True))


@pytest.mark.parametrize("change", [{"step": 1}, {"first_image": 1}, {"seed": 1}, {"stream": 5}])
def test_another_position_chooses_others(change):
    image = [matched(50, 500, 0)]
    assert not torch.equal(sample(image)[0], sample(image, **change)[0])


def test_two_images_of_a_batch_choose_apart():
    first, *_, last = sample(IMAGES)
    assert torch.equal(IMAGES[0], IMAGES[-1])
    assert not torch.equal(first, last)


@given(
    counts=st.tuples(st.integers(0, 40), st.integers(1, 90), st.integers(0, 20)),
    step=st.integers(0, 2**31),
    seed=st.integers(0, 2**63 - 1),
    place=st.integers(0, 2**20),
)
def test_a_candidate_less_changes_one_choice_at_most(counts, step, seed, place):
    image = matched(*counts)
    fewer = image.clone()
    negatives = torch.where(image == 0)[0]
    fewer[negatives[place % len(negatives)]] = -1
    before, after = (sample([labels], step=step, seed=seed)[0] for labels in (image, fewer))
    assert torch.equal(before[0], after[0]), "the positives are as they were"
    assert int((before[1] > after[1]).sum()) <= 1
    assert int((before[1] < after[1]).sum()) <= 1


def test_whose_turn_it_is_is_keyed_as_everything_random_is():
    """The smallest of `keyed_bits` come first, the last part of the key being the index."""
    image = matched(30, 200, 9)
    ((positive, negative),) = sample([image], step=3, first_image=2, seed=-5, stream=5)
    turns = torch.from_numpy((keyed_bits(-5, 3, 2, 5, np.arange(len(image))) << 1 >> 1).astype(int))
    for mask, kind, count in ((positive, image >= 1, 4), (negative, image == 0, 12)):
        wanted = turns[kind].sort().values[:count]
        assert turns[mask.bool()].sort().values.tolist() == wanted.tolist()


def test_images_with_different_numbers_of_candidates_choose_as_alone():
    images = [matched(9, 60, 5), matched(1, 2, 0), matched(0, 0, 0), matched(30, 300, 7)]
    alone = [sample([image], first_image=i)[0] for i, image in enumerate(images)]
    assert all(torch.equal(a, b) for a, b in zip(sample(images), alone, strict=True))


def test_every_candidate_has_the_same_chance_as_in_torchvision():
    image, steps = matched(10, 40, 10), 500
    torch.manual_seed(0)
    theirs = BalancedPositiveNegativeSampler(16, 0.25)
    ours, reference = torch.zeros(2, len(image)), torch.zeros(2, len(image))
    for step in range(steps):
        ours += sample([image], step=step)[0]
        reference += torch.stack([mask for (mask,) in theirs([image])])
    share = torch.stack([(image >= 1) * 4 / 10, (image == 0) * 12 / 40])
    for counted in (ours, reference):
        torch.testing.assert_close(counted / steps, share, atol=0.11, rtol=0)  # 5 deviations


def test_both_samplers_of_a_detector_are_replaced():
    model = build_model("small", ["person"], "none", image_size=32).model
    parts = (model.rpn, model.roi_heads)
    before = [
        (p.fg_bg_sampler.batch_size_per_image, p.fg_bg_sampler.positive_fraction) for p in parts
    ]
    position = key_samplers(model, seed=3)
    after = [p.fg_bg_sampler for p in parts]
    assert [(s.batch_size_per_image, s.positive_fraction) for s in after] == before
    assert all(s.position is position for s in after)
    assert after[0].stream != after[1].stream


@pytest.mark.parametrize("sizes", [[(3, 60, 80), (3, 90, 50)], [(3, 33, 64), (3, 64, 200)]])
def test_each_part_is_padded_as_the_whole_batch_is(sizes):
    model = build_model("small", ["person"], "none", image_size=64).model
    images = [torch.zeros(size) for size in sizes]
    whole, _ = model.transform(images)
    position = key_samplers(model, seed=0)
    for image in images:
        position.begin(images)
        alone, _ = model.transform([image])
        assert alone.tensors.shape[1:] == whole.tensors.shape[1:]
        position.begin([image])
        as_theirs, _ = model.transform([image])
        assert min(as_theirs.tensors.shape[1:]) < max(whole.tensors.shape[1:])


def test_entering_a_position_keys_the_layers_too():
    position = Position(seed=1)
    drawn = {}
    for place in ((0, 0), (0, 4), (1, 0), (0, 0)):
        position.enter(*place)
        drawn.setdefault(place, []).append(float(torch.rand(1)))
    assert drawn[0, 0][0] == drawn[0, 0][1]
    assert len({values[0] for values in drawn.values()}) == 3


@pytest.mark.parametrize(
    ("name", "sides", "images", "padded"),
    [
        pytest.param("resnet18", 40, 1, (32, 64), id="one value a channel: padded to two"),
        pytest.param("resnet18", 40, 2, (32, 32), id="two images have two values"),
        pytest.param("resnet18", 80, 1, (32, 32), id="in evaluation nothing is padded"),
        pytest.param("small", 40, 1, (32, 32), id="stride 16: four values"),
    ],
)
def test_a_norm_that_trains_never_sees_a_single_value(name, sides, images, padded):
    model = build_model(name, ["person"], "none", image_size=32).model
    position = key_samplers(model, seed=0)
    batch = [torch.rand(3, sides, sides) for _ in range(images)]
    position.begin(batch)
    if (name, sides) == ("resnet18", 80):
        model.eval()  # norms do not train then, and nothing is padded
    shown, _ = model.transform(batch)
    assert tuple(shown.tensors.shape[-2:]) == padded
    if model.training:
        targets = [{"boxes": torch.tensor([[1.0, 1, 30, 30]]), "labels": torch.ones(1).long()}]
        assert all(torch.isfinite(loss) for loss in model(batch, targets * images).values())
