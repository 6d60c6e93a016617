"""How many images fit at once: what is chosen, and that looking leaves no trace."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from torch import nn

from relaydet.errors import RelayError
from relaydet.model import build_model, recipe_of
from relaydet.runtime.device import Device, choose_device
from relaydet.training import micro_batch as module
from relaydet.training.loop import autocast, build_optimizer
from relaydet.training.micro_batch import (
    Measured,
    MicroBatch,
    choose_micro_batch,
    even_parts,
    has_synchronised_norms,
    micro_batch_for,
    norm_buffers,
    probe_memory,
    put_back,
    unless_memory_runs_out,
)

GB = 10**9
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("batch_size", "most", "size"),
    [(8, 8, 8), (8, 7, 4), (8, 4, 4), (8, 3, 3), (8, 1, 1), (9, 8, 5), (10, 4, 4), (1, 1, 1)],
)
def test_a_batch_is_cut_into_even_parts(batch_size, most, size):
    assert even_parts(batch_size, most) == size


@pytest.mark.parametrize(
    ("size", "images", "halved"),
    [(8, 8, 4), (8, 5, 3), (4, 8, 2), (3, 8, 2), (2, 8, 1)],
)
def test_half_of_what_did_not_fit_is_taken(size, images, halved):
    micro_batch = MicroBatch(size)
    micro_batch.halve(images)
    assert micro_batch.size == halved


def never() -> tuple[int, str]:
    raise AssertionError("there was no need to look")


@pytest.mark.parametrize(
    ("asked", "before", "probe", "chosen"),
    [
        pytest.param(None, None, None, (8, ""), id="memory that cannot be asked: the whole batch"),
        pytest.param(None, None, lambda: (4, "seen"), (4, "seen"), id="the probe decides"),
        pytest.param(None, 2, never, (2, "as before, on the same kind of device"), id="as before"),
        pytest.param(3, 2, never, (3, "as asked"), id="as asked"),
        pytest.param(8, None, never, (8, ""), id="the batch itself asked for"),
        pytest.param(99, None, never, (8, ""), id="more than the batch asked for"),
    ],
)
def test_what_decides(asked, before, probe, chosen):
    assert choose_micro_batch(asked, 8, before, probe) == chosen


@pytest.mark.parametrize(
    ("measured", "batch_size", "chosen"),
    [
        pytest.param(
            Measured(16 * GB, 3 * GB, 5 * GB, 0),
            8,
            (4, "16.0 GB free, 2.00 GB an image"),
            id="(0.9 * 16 - 1) / 2 = 6, in two parts of 4",
        ),
        pytest.param(
            Measured(20 * GB, 3 * GB, 5 * GB, 0),
            8,
            (8, "20.0 GB free, 2.00 GB an image"),
            id="(0.9 * 20 - 1) / 2 = 8",
        ),
        pytest.param(
            Measured(20 * GB, 3 * GB, 5 * GB, 2 * GB),
            8,
            (4, "20.0 GB free, 2.00 GB an image"),
            id="the optimizer's state is still to come",
        ),
        pytest.param(
            Measured(4 * GB, 3 * GB, None, 0),
            8,
            (1, "4.0 GB free, 3.00 GB an image"),
            id="two did not fit",
        ),
        pytest.param(
            Measured(4 * GB, 3 * GB, 4 * GB, 0),
            8,
            (1, "4.0 GB free, 1.00 GB an image"),
            id="two fit, and nothing beside them",
        ),
        pytest.param(
            Measured(80 * GB, 3 * GB, 3 * GB, 0),
            8,
            (8, "80.0 GB free, 0.00 GB an image"),
            id="the second image took no more",
        ),
        pytest.param(
            Measured(80 * GB, 3 * GB, None, 0),
            1,
            (1, "80.0 GB free, 3.00 GB an image"),
            id="a batch of one",
        ),
    ],
)
def test_the_free_memory_decides(measured, batch_size, chosen):
    assert micro_batch_for(measured, batch_size) == chosen


def test_only_the_statistics_of_norms_that_train_are_kept():
    trains, rests = nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval()
    model = nn.Sequential(trains, rests, nn.Linear(2, 2), nn.LayerNorm(2))
    assert {id(b) for b in norm_buffers(model)} == {id(b) for b in trains.buffers()}


def test_norms_that_look_at_all_ranks_are_found():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)))
    assert not has_synchronised_norms(plain)
    assert has_synchronised_norms(nn.SyncBatchNorm.convert_sync_batchnorm(plain))


def test_memory_that_ran_out_is_no_exception_and_statistics_can_be_put_back(monkeypatch):
    norm = nn.BatchNorm2d(2)
    before = [buffer.clone() for buffer in norm.buffers()]
    given_back = []
    monkeypatch.setattr(module, "give_back", given_back.append)

    def attempt() -> None:
        norm(torch.rand(2, 2, 3, 3))
        assert norm.num_batches_tracked == 1
        raise torch.cuda.OutOfMemoryError("full")

    assert unless_memory_runs_out(attempt, CPU) is None
    put_back(norm_buffers(norm), before)
    assert all(torch.equal(*pair) for pair in zip(before, norm.buffers(), strict=True))
    assert given_back == [CPU]


def test_what_the_attempt_held_is_free_before_the_cache_is_emptied(monkeypatch):
    held = []
    alive = []

    def attempt() -> None:
        image = torch.rand(10)
        held.append(weakref.ref(image))
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(module, "give_back", lambda device: alive.append(held[0]() is not None))
    gc.disable()  # only what nobody refers to goes at once
    try:
        assert unless_memory_runs_out(attempt, CPU) is None
    finally:
        gc.enable()
    assert alive == [False]


def test_what_went_well_or_wrong_otherwise_is_not_touched():
    norm = nn.BatchNorm2d(2)

    def fail() -> None:
        raise RuntimeError("no kernel image")

    assert unless_memory_runs_out(lambda: (norm(torch.rand(2, 2, 3, 3)), 7)[1], CPU) == 7
    assert norm.num_batches_tracked == 1
    with pytest.raises(RuntimeError, match="no kernel image"):
        unless_memory_runs_out(fail, CPU)


class FakeMemory:
    """CUDA's memory as the probe asks for it, on a CPU: full after so many bytes."""

    def __init__(self, monkeypatch, size: int) -> None:
        self.size, self.weights, self.fixed, self.image = size, 2 * GB, 1 * GB, 3 * GB
        self.peak, self.images = 0, []
        for name, answer in {
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", 0),
            "max_memory_allocated": lambda device: self.peak,
            "memory_allocated": lambda device: self.weights,
            "memory_reserved": lambda device: self.weights,
            "mem_get_info": lambda device: (self.size - self.weights, self.size),
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        # Its own streams a CPU has always; CUDA's are not there.
        fork = torch.random.fork_rng
        monkeypatch.setattr(torch.random, "fork_rng", lambda devices: fork([]))

    def take(self, model, inputs) -> None:
        """Before the RPN: the backbone's batch norms have seen the images by then."""
        images = len(inputs[0].image_sizes)
        self.images.append(tuple(inputs[0].tensors.shape))
        self.peak = self.weights + self.fixed + images * self.image
        if self.peak > self.size:
            raise torch.cuda.OutOfMemoryError("full")


@contextlib.contextmanager
def no_trace(model, optimizer):
    """Whatever a probe could change is as before afterwards."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    yield
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not optimizer.state
    assert model.training


def a_detector(device: torch.device = CPU, name: str = "small"):
    built = build_model(name, ["person"], "none", image_size=64)
    model = built.model.to(device).train()
    return model, build_optimizer(model, recipe_of(name))


@pytest.mark.parametrize(
    ("size", "batch_size", "chosen", "probed"),
    [
        # 0.9 * (32 - 2) = 27; less 1 that is fixed: 8 images of 3.
        pytest.param(32 * GB, 16, 8, [1, 1, 2], id="plenty"),
        pytest.param(32 * GB, 6, 6, [1, 1, 2], id="more than the batch"),
        pytest.param(8 * GB, 16, 1, [1, 1, 2], id="two do not fit"),
        pytest.param(32 * GB, 1, 1, [1, 1], id="a batch of one"),
    ],
)
def test_the_probe_tells_how_many_fit_and_leaves_no_trace(
    monkeypatch, size, batch_size, chosen, probed
):
    memory, (model, optimizer) = FakeMemory(monkeypatch, size), a_detector()
    device = Device(CPU, "a GPU", torch.float32, "for a test")
    with no_trace(model, optimizer):
        hook = model.rpn.register_forward_pre_hook(memory.take)
        found, why = probe_memory(model, optimizer, device, batch_size, lambda: autocast(device))
        hook.remove()
    assert found == chosen
    assert why.startswith(f"{(size - memory.weights) / 1e9:.1f} GB free, ")
    # 64 pixels is the short side; the recipe lets the long one be four times that.
    assert memory.images == [(images, 3, 64, 256) for images in probed]


def test_a_gpu_that_no_image_fits_into_is_refused(monkeypatch):
    memory, (model, optimizer) = FakeMemory(monkeypatch, 4 * GB), a_detector()
    device = Device(CPU, "Tiny GPU", torch.float32, "for a test")
    with no_trace(model, optimizer):
        hook = model.rpn.register_forward_pre_hook(memory.take)
        with pytest.raises(RelayError, match=r"Tiny GPU is too small for one image; lower IMAGE_"):
            probe_memory(model, optimizer, device, 8, lambda: autocast(device))
        hook.remove()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["small", "resnet50_fpn"])
def test_the_probe_leaves_no_trace_on_a_gpu(name):
    device = choose_device("cuda")
    model, optimizer = a_detector(device.device, name)
    streams = torch.cuda.get_rng_state(device.device)
    with no_trace(model, optimizer):
        size, why = probe_memory(model, optimizer, device, 4, lambda: autocast(device))
    assert torch.equal(streams, torch.cuda.get_rng_state(device.device))
    assert 1 <= size <= 4
    assert "GB an image" in why
