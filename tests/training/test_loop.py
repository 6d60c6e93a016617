"""One optimizer step after the other, on a stub whose gradients can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from relaydet.errors import RelayError
from relaydet.model import build_model, recipe_of
from relaydet.runtime.device import Device
from relaydet.training.loop import build_optimizer, to_device, train_steps
from relaydet.training.sampling import Position, key_samplers
from relaydet.training.schedule import Schedule

CPU = Device(torch.device("cpu"), "CPU", torch.float32, "for a test")
SCHEDULE = Schedule("cosine", peak=0.5, total_steps=8, warmup_steps=0)


class Stub(nn.Module):
    """Losses are means over the images, as torchvision's are: w * brightness, and w * objects."""

    def __init__(self, spoil: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0))
        self.spoil = spoil
        self.forwards: list[int] = []

    def forward(self, images, targets):
        self.forwards.append(len(images))
        brightness = torch.stack([image.mean() for image in images]).mean()
        objects = torch.tensor([len(target["boxes"]) for target in targets]).float().mean()
        return {"loss_classifier": self.w * brightness + self.spoil, "loss_rpn": self.w * objects}


def a_batch(*levels: int):
    """Images of grey levels 0..255; image i holds i objects."""
    return [
        (
            torch.full((3, 4, 5), level, dtype=torch.uint8),
            {"boxes": torch.zeros(objects, 4), "labels": torch.ones(objects, dtype=torch.int64)},
        )
        for objects, level in enumerate(levels)
    ]


BATCH = a_batch(0, 51, 102, 255, 255)
SLOPE = (0 + 0.2 + 0.4 + 1 + 1) / 5 + (0 + 1 + 2 + 3 + 4) / 5


def run(model, batches, first_step=0, micro_batch=5, position=None, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1.0)
    return train_steps(
        model=model,
        optimizer=optimizer,
        batches=iter(batches),
        position=position or Position(0),
        schedule=SCHEDULE,
        device=CPU,
        first_step=first_step,
        micro_batch=micro_batch,
    )


@pytest.mark.parametrize(
    ("micro_batch", "forwards"),
    [(5, [5]), (4, [4, 1]), (3, [3, 2]), (2, [2, 2, 1]), (1, [1] * 5), (8, [5])],
)
def test_every_image_weighs_the_same_whatever_the_micro_batch(micro_batch, forwards):
    model = Stub()
    (step,) = run(model, [BATCH], micro_batch=micro_batch)
    assert model.forwards == forwards
    assert model.w.item() == pytest.approx(2 - 0.5 * SLOPE)
    assert step.loss == pytest.approx(2 * SLOPE)
    assert step.losses == {
        "classifier": pytest.approx(2 * 2.6 / 5),
        "rpn": pytest.approx(2 * 2.0),
    }


def test_steps_are_counted_and_follow_the_schedule():
    steps = list(run(Stub(), [BATCH, BATCH[:2], BATCH], first_step=2))
    assert [step.step for step in steps] == [3, 4, 5]
    assert [step.images for step in steps] == [5, 2, 5]
    rates = [0.25 * (1 + math.cos(math.pi * step / 8)) for step in (2, 3, 4)]
    assert [step.lr for step in steps] == pytest.approx(rates)
    assert all(0 <= step.data_seconds <= step.seconds for step in steps)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("micro_batch", [5, 2])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(value, micro_batch):
    model = Stub()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    steps = run(model, [BATCH, BATCH], 5, micro_batch, optimizer=optimizer)
    next(steps)
    weight, moment = model.w.item(), optimizer.state[model.w]["exp_avg"].item()
    model.spoil = value
    with pytest.raises(RelayError, match=rf"Step 6: .*classifier {value:g}, rpn [\d.-]+;.*RATE"):
        next(steps)
    assert (model.w.item(), optimizer.state[model.w]["exp_avg"].item()) == (weight, moment)


def test_the_position_is_entered_before_each_forward_pass():
    seen = []

    class Watched(Position):
        def enter(self, step, first_image):
            seen.append((step, first_image))

    list(run(Stub(), [BATCH, BATCH[:3]], first_step=3, micro_batch=2, position=Watched(0)))
    assert seen == [(3, 0), (3, 2), (3, 4), (4, 0), (4, 2)]


def test_images_become_floats_in_0_to_1():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    moved = to_device(image, torch.device("cpu"))
    assert moved.flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert image.flatten().tolist() == [0, 51, 255]


@pytest.mark.parametrize(
    ("model", "kind", "momentum"),
    [("small", torch.optim.AdamW, None), ("resnet18", torch.optim.SGD, 0.9)],
)
def test_the_recipe_decides_the_optimizer(model, kind, momentum):
    stub = nn.Linear(2, 2)
    stub.bias.requires_grad_(False)
    recipe = replace(recipe_of(model), weight_decay=0.3)
    optimizer = build_optimizer(stub, recipe)
    (group,) = optimizer.param_groups
    assert type(optimizer) is kind
    assert group["params"] == [stub.weight], "what is frozen is not trained"
    assert (group["weight_decay"], group.get("momentum")) == (0.3, momentum)


def real_steps(batches, first_step, state=None):
    """A real detector trained over some batches; its state dicts afterwards."""
    model = build_model("small", ["person"], "none", image_size=32).model.train()
    optimizer = build_optimizer(model, recipe_of("small"))
    if state:
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    steps = list(run(model, batches, first_step, 2, key_samplers(model, 0), optimizer))
    assert all(math.isfinite(step.loss) for step in steps)
    assert set(steps[0].losses) == {"classifier", "box_reg", "objectness", "rpn_box_reg"}
    return model.state_dict(), optimizer.state_dict()


def test_an_interrupted_detector_ends_with_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    target = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 28.0]]), "labels": torch.tensor([1])}
    batches = [
        [(torch.randint(256, (3, 32, 40), generator=generator).byte(), target) for _ in range(2)]
        for _ in range(2)
    ]
    whole, _ = real_steps(batches, 0)
    resumed, _ = real_steps(batches[1:], 1, real_steps(batches[:1], 0))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


SIZES = [(60, 80), (50, 90), (64, 64), (40, 90), (70, 72), (33, 80), (64, 90), (60, 61)]


def first_loss(name: str, micro_batch: int) -> float:
    """Loss of the first step on images of many sizes, with frozen batch norms."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[4.0, 4.0, 30.0, 28.0], [10.0, 5.0, 25.0, 33.0]])
    batch = [
        (
            torch.randint(256, (3, *size), generator=generator).byte(),
            {"boxes": boxes, "labels": torch.tensor([1, 1])},
        )
        for size in SIZES
    ]
    model = build_model(name, ["person"], "none", image_size=64, frozen=True).model.train()
    (step,) = run(model, [batch], 0, micro_batch, key_samplers(model, 0))
    return step.loss


@pytest.mark.parametrize(
    ("name", "tolerance", "micro_batches"),
    [("small", 1e-5, (4, 3, 1)), ("mobilenet_v2", 2e-3, (3,))],
    ids=["small", "mobilenet_v2"],
)
def test_the_first_loss_does_not_depend_on_the_micro_batch(name, tolerance, micro_batches):
    whole = first_loss(name, len(SIZES))
    for micro_batch in micro_batches:
        assert first_loss(name, micro_batch) == pytest.approx(whole, rel=tolerance)
