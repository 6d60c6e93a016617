"""Whether the faster ways are taken, left out where PLAIN asks for it, and learn the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torchvision.ops import MultiScaleRoIAlign

from relaydet.config import BenchConfig, MergeConfig, TrainConfig
from relaydet.data.demo import write_demo
from relaydet.data.loader import training_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.jobs.merge import merge
from relaydet.model import Recipe, build_model
from relaydet.runtime.detect import detect
from relaydet.speedups import speed_up
from relaydet.speedups.roi_align import SparseRoIAlign
from relaydet.storage.local import LocalStore
from relaydet.training.loop import Step, build_optimizer
from relaydet.training.members import device_of
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.restore import Restored, equip
from relaydet.training.steps import run_steps
from relaydet.training.team import ALONE

STEPS, BATCH = 50, 4


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    street, search, _ = write_demo(folder / "scenes", sizes=(40, 20, 2))
    merge(MergeConfig("scenes", (street, search), ("person",), str(folder)), say=lambda _: None)
    saved = load_dataset(LocalStore(folder), "scenes")
    return training_samples(saved.dataset, open_sources(saved))


@pytest.fixture
def one_thread():
    """Their number reaches the last bits, and so which of two near-tied proposals comes first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(samples, frozen: bool, plain: bool) -> tuple[Restored, Iterator[Step]]:
    """A run of `small` in float32 with SGD: AdamW divides by what may be rounding alone."""
    config = TrainConfig(
        model="small",
        epochs=4,
        batch_size=BATCH,
        learning_rate=1e-3,
        image_size=64,
        device="cpu",
        precision="float32",
        workers=0,
        plain=plain,
    )
    device = device_of(ALONE, config, detect())
    built = build_model(config.model, ["person"], "none", config.image_size, frozen=frozen)
    _, scaler = equip(built, device)
    optimizer = build_optimizer(built.model, Recipe())
    trained = Restored(built, optimizer, scaler, MicroBatch(BATCH))
    return trained, run_steps(config, samples, trained, device, ALONE, 0, lambda _: None)


def weights(trained: Restored) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.built.model.parameters()])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("frozen", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_of_fifty_steps_learns_what_the_plain_way_learns(samples, frozen):
    """From the same weights at each step: on their own, even two plain runs part, of which one
    starts with weights that differ in the last bit, as soon as a proposal comes before another."""
    (plain, plain_steps), (quick, quick_steps) = (
        run(samples, frozen, way) for way in (True, False)
    )
    apart, learnt = [], []
    for _ in range(STEPS):
        before = weights(plain)
        wanted, found = next(plain_steps), next(quick_steps)
        assert found.losses == pytest.approx(wanted.losses, abs=1e-3)
        change, other = weights(plain) - before, weights(quick) - before
        apart.append(float((other - change).norm() / change.norm()))
        learnt.append(wanted.loss)
        quick.built.model.load_state_dict(plain.built.model.state_dict())
        quick.optimizer.load_state_dict(copy.deepcopy(plain.optimizer.state_dict()))
    assert sum(learnt[-5:]) < sum(learnt[:5]), "something is learnt"
    assert max(apart) < 1e-2
    assert sorted(apart)[STEPS // 2] < 1e-3


@pytest.mark.parametrize(("plain", "kind"), [(True, MultiScaleRoIAlign), (False, SparseRoIAlign)])
def test_plain_leaves_torchvisions_parts_in_place(plain, kind):
    device = device_of(ALONE, BenchConfig(device="cpu", plain=plain), detect())
    built = build_model("small", ["person"], "none", 64)
    names = list(built.model.state_dict())
    equip(built, device)
    assert type(built.model.roi_heads.box_roi_pool) is kind
    assert list(built.model.state_dict()) == names


def test_a_detector_of_torchvisions_own_says_what_it_said():
    """Its pool does not know its scales before it has seen the first images."""
    torch.manual_seed(0)
    build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    theirs = build(weights=None, weights_backbone=None, min_size=64, box_score_thresh=0.0).eval()
    quick = copy.deepcopy(theirs)
    speed_up(quick)
    images = [torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    with torch.inference_mode():
        for image in images:
            (wanted,), (found,) = theirs([image]), quick([image])
            assert len(wanted["boxes"])
            torch.testing.assert_close(found["scores"], wanted["scores"], rtol=1e-3, atol=1e-5)


def test_plain_is_float32_unless_another_precision_is_asked_for():
    for precision, wanted in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        config = BenchConfig(device="cpu", precision=precision, plain=True)
        device = device_of(ALONE, config, detect())
        assert (device.dtype, device.quick, device.channels_last) == (wanted, False, False)
        assert device.reason.endswith("plain: asked for")
