"""One optimizer step after the other, on a stub whose gradients can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from relaydet.compat import detector_runs_in_float16_on_cpu
from relaydet.data.order import share_of
from relaydet.errors import RankLostError, RelayError
from relaydet.model import build_model, recipe_of
from relaydet.runtime.device import Device, choose_device
from relaydet.training.loop import Learner, build_optimizer, build_scaler, to_device, train_steps
from relaydet.training.micro_batch import MicroBatch
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
        nothing = 0 * self.w
        return {
            "loss_classifier": self.w * brightness + self.spoil,
            "loss_box_reg": nothing,
            "loss_objectness": self.w * objects,
            "loss_rpn_box_reg": nothing,
        }


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


def shared(batches):
    """With the share of a process that is alone."""
    return [(share_of(len(batch)), batch) for batch in batches]


def run(model, batches, first_step=0, micro_batch=5, position=None, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1.0)
    learner = Learner(model, optimizer, position or Position(0), CPU)
    return train_steps(learner, shared(batches), SCHEDULE, first_step, MicroBatch(micro_batch))


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
        "objectness": pytest.approx(2 * 2.0),
        "box_reg": 0,
        "rpn_box_reg": 0,
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
    with pytest.raises(
        RelayError, match=rf"Step 6: .*classifier {value:g}, .*objectness [\d.-]+, .*;.*RATE"
    ):
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


# Memory that runs out.


def test_where_ranks_wait_for_each_other_in_a_norm_a_step_cannot_be_done_again():
    def no_memory(*_arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model = Stub()
    model.register_forward_pre_hook(no_memory)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    learner = Learner(model, optimizer, Position(0), CPU, even_passes=True)
    steps = train_steps(learner, shared([BATCH]), SCHEDULE, 0, MicroBatch(4))
    with pytest.raises(RankLostError, match=r"^Rank 0: .* set MICRO_BATCH below 4$"):
        next(steps)
    assert model.w.item() == 2


class TooSmall:
    """A device that only so many images fit into; a hook before the detector or before its RPN.

    Before the RPN the backbone's batch norms have already seen the images that are too many.
    """

    def __init__(self, most: int, from_call: int = 0) -> None:
        self.most, self.from_call, self.calls = most, from_call, []

    def __call__(self, part, inputs) -> None:
        images = len(inputs[0]) if isinstance(inputs[0], list) else len(inputs[0].image_sizes)
        self.calls.append(images)
        if images > self.most and len(self.calls) > self.from_call:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def six_images():
    """Two batches of six images of one size, with an object or two each."""
    generator = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[4.0, 4.0, 20.0, 28.0], [10.0, 2.0, 36.0, 30.0]])
    return [
        [
            (
                torch.randint(256, (3, 32, 40), generator=generator).byte(),
                {"boxes": boxes[: 1 + i % 2], "labels": torch.ones(1 + i % 2, dtype=torch.int64)},
            )
            for i in range(6)
        ]
        for _ in range(2)
    ]


def trained(micro_batch, hook=None, part="", frozen=False, dtype=torch.float32):
    """What two steps make of a detector, and the micro-batch in force afterwards."""
    built = build_model("small", ["person"], "none", image_size=32, frozen=frozen)
    model = built.model.train()
    handle = model.get_submodule(part).register_forward_pre_hook(hook) if hook else None
    optimizer = build_optimizer(model, recipe_of("small"))
    device = replace(CPU, dtype=dtype)
    learner = Learner(model, optimizer, key_samplers(model, 0), device, build_scaler(device))
    size, said = MicroBatch(micro_batch), []
    schedule = replace(SCHEDULE, peak=1e-3)
    steps = list(train_steps(learner, shared(six_images()), schedule, 0, size, said.append))
    if handle:
        handle.remove()
    return model.state_dict(), optimizer.state_dict()["state"], steps, size.size, said


def same(ours, theirs) -> bool:
    """Whether two models, optimizers and losses are equal in every bit."""
    return (
        all(torch.equal(ours[0][name], theirs[0][name]) for name in theirs[0])
        and all(
            torch.equal(torch.as_tensor(ours[1][i][key]), torch.as_tensor(theirs[1][i][key]))
            for i in theirs[1]
            for key in theirs[1][i]
        )
        and [step.losses for step in ours[2]] == [step.losses for step in theirs[2]]
    )


needs_float16 = pytest.mark.skipif(
    not detector_runs_in_float16_on_cpu(), reason="this torch has no float16 on a CPU"
)


@pytest.mark.parametrize("frozen", [False, True], ids=["norms train", "norms frozen"])
@pytest.mark.parametrize("part", ["", "rpn"], ids=["at once", "after the backbone"])
def test_a_batch_that_does_not_fit_ends_as_if_it_had_been_smaller_from_the_start(part, frozen):
    hook = TooSmall(2)
    halved = trained(6, hook, part, frozen)
    assert halved[3] == 2
    assert same(halved, trained(2, frozen=frozen))
    assert hook.calls == [6, 3, *[2] * 6], "the second step takes the smaller size at once"


def test_memory_that_runs_out_in_a_later_part_takes_the_first_parts_gradients_back():
    hook = TooSmall(1, from_call=2)
    halved = trained(2, hook, "rpn")
    assert hook.calls[:3] == [2, 2, 2], "two parts went well"
    assert halved[3] == 1
    assert same(halved, trained(1))


@needs_float16
def test_memory_that_runs_out_in_float16_changes_no_bit_either():
    halved = trained(6, TooSmall(3), "rpn", dtype=torch.float16)
    assert halved[3] == 3
    assert same(halved, trained(3, dtype=torch.float16))


def test_each_halving_is_said_once():
    *_, said = trained(6, TooSmall(2))
    assert [line.split(";")[0] for line in said] == [
        "step 0: 6 images at once did not fit into the memory",
        "step 0: 3 images at once did not fit into the memory",
    ]
    assert said[-1].endswith("2 at a time (the optimizer's batch stays 6)")


class FullAtFirst:
    """Memory whose pieces have a wrong size in these calls, and are whole once they are freed."""

    def __init__(self, *calls: int) -> None:
        self.full, self.calls = calls, 0

    def __call__(self, part, inputs) -> None:
        self.calls += 1
        if self.calls in self.full:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("part", ["", "rpn"], ids=["at once", "after the backbone"])
@pytest.mark.parametrize(
    ("micro_batch", "full", "sentences"),
    [
        pytest.param(6, (1,), ["step 0: 6"], id="whole batch"),
        pytest.param(2, (2,), ["step 0: 2"], id="a later part"),
        pytest.param(6, (2,), ["step 1: 6"], id="the second step"),
        pytest.param(6, (1, 3), ["step 0: 6", "step 1: 6"], id="both steps"),
    ],
)
def test_a_batch_is_done_again_in_its_size_before_it_is_halved(
    monkeypatch, micro_batch, full, sentences, part
):
    monkeypatch.setattr("relaydet.training.micro_batch.has_cache", lambda device: True)
    again = trained(micro_batch, FullAtFirst(*full), part)
    assert again[3] == micro_batch
    assert same(again, trained(micro_batch))
    rest = " images at once did not fit into the memory; trying again"
    assert again[4] == [sentence + rest for sentence in sentences]


def test_memory_that_is_too_small_is_tried_twice_and_then_halved(monkeypatch):
    monkeypatch.setattr("relaydet.training.micro_batch.has_cache", lambda device: True)
    hook = TooSmall(2)
    halved = trained(6, hook)
    assert hook.calls == [6, 6, 3, *[2] * 6]
    assert same(halved, trained(2))


def test_after_three_batches_that_were_done_again_the_size_is_halved_at_once():
    size, gpu = MicroBatch(8), torch.device("cuda")
    assert [size.retry(gpu) for _ in range(5)] == [True, True, True, False, False]
    assert not MicroBatch(8).retry(torch.device("cpu")), "it has no cache to empty"


def test_one_image_that_does_not_fit_is_explained():
    with pytest.raises(RelayError, match=r"^Step 0: .*too small for one image; lower IMAGE_SIZE"):
        trained(6, TooSmall(0))


def test_another_error_is_not_taken_for_full_memory():
    def fail(part, inputs) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        trained(6, fail)


# Float16.


@needs_float16
def test_a_step_whose_gradients_overflow_is_skipped_and_counts(monkeypatch):
    def run_with(scale: float):
        scaler = partial(torch.amp.GradScaler, init_scale=scale)
        monkeypatch.setattr("relaydet.training.loop.grad_scaler", scaler)
        return trained(6, dtype=torch.float16)

    weights, moments, steps, *_ = run_with(2.0**80)
    untrained = build_model("small", ["person"], "none", image_size=32).model.state_dict()
    parameters = [name for name in weights if name.endswith(("weight", "bias"))]
    assert [step.step for step in steps] == [1, 2]
    assert all(torch.equal(weights[name], untrained[name]) for name in parameters)
    assert not moments, "the optimizer did nothing"
    sound = run_with(2.0**10)[0]
    assert not all(torch.equal(sound[name], untrained[name]) for name in parameters)


@needs_float16
def test_the_scale_reaches_no_loss(monkeypatch):
    found = []
    for scale in (2.0**9, 2.0**12):
        scaler = partial(torch.amp.GradScaler, init_scale=scale)
        monkeypatch.setattr("relaydet.training.loop.grad_scaler", scaler)
        found.append(trained(6, dtype=torch.float16))
    (first, second), (first_too, second_too) = found[0][2], found[1][2]
    assert first.losses == first_too.losses
    assert second.loss == pytest.approx(second_too.loss, rel=0.01), "small gradients vanish"
    assert first.loss == pytest.approx(trained(6)[2][0].loss, rel=0.05)


def step_of_eight(device: Device, name: str, size: int, micro_batch: int):
    """The loss of a step of eight images on a device, and the micro-batch in force afterwards."""
    generator = torch.Generator().manual_seed(1)
    box = torch.tensor([[0.1, 0.1, 0.5, 0.7]]) * size
    batch = [
        (
            torch.randint(256, (3, size, 3 * size // 2), generator=generator).byte(),
            {"boxes": box, "labels": torch.tensor([1])},
        )
        for _ in range(8)
    ]
    model = build_model(name, ["person"], "none", image_size=size).model
    model.to(device.device).train()
    optimizer = build_optimizer(model, recipe_of(name))
    learner = Learner(model, optimizer, key_samplers(model, 0), device, build_scaler(device))
    left = MicroBatch(micro_batch)
    (step,) = train_steps(learner, shared([batch]), replace(SCHEDULE, peak=1e-4), 0, left)
    return step.loss, left.size


def test_what_the_test_on_a_gpu_does_is_a_step():
    """Nothing but a machine with a GPU would tell that it had never worked."""
    loss, size = step_of_eight(CPU, "small", 32, 4)
    assert size == 4
    assert math.isfinite(loss)
    assert loss == pytest.approx(step_of_eight(CPU, "small", 32, 4)[0], rel=1e-6)


@pytest.mark.gpu
def test_a_gpu_that_is_full_halves_the_micro_batch():
    """As if the card were smaller: the allocator gets a share of it alone."""
    device = choose_device("cuda")
    index, total = device.device.index, device.memory_total

    def peak_of(micro_batch: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device.device)
        step_of_eight(device, "resnet50_fpn", 400, micro_batch)
        return torch.cuda.max_memory_reserved(device.device)

    peak_of(1)  # loads the libraries
    one, eight = peak_of(1), peak_of(8)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((one + eight) / 2 / total, index)
    try:
        loss, size = step_of_eight(device, "resnet50_fpn", 400, 8)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
        torch.cuda.empty_cache()
    assert size in (1, 2, 4)
    assert math.isfinite(loss)
