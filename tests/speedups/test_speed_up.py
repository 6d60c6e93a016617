"""All faster ways at once: the losses of a run stay what they are the plain way."""

from __future__ import annotations

import pytest
import torch

from relaydet.config import BenchConfig, MergeConfig, TrainConfig
from relaydet.data.demo import write_demo
from relaydet.data.loader import training_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.jobs.merge import merge
from relaydet.model import build_model
from relaydet.runtime.detect import detect
from relaydet.speedups.roi_align import SparseRoIAlign
from relaydet.storage.local import LocalStore
from relaydet.training.members import device_of
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.restore import Restored, equip
from relaydet.training.steps import run_steps
from relaydet.training.team import ALONE

STEPS = 50


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    street, search, _ = write_demo(folder / "scenes", sizes=(40, 20, 2))
    merge(MergeConfig("scenes", (street, search), ("person",), str(folder)), say=lambda _: None)
    saved = load_dataset(LocalStore(folder), "scenes")
    return training_samples(saved.dataset, open_sources(saved))


def losses(samples, model: str, frozen: bool, plain: bool, learning_rate: float):
    """Each of the four losses in each step, in float32."""
    config = TrainConfig(
        model=model,
        epochs=4,
        batch_size=4,
        learning_rate=learning_rate,
        image_size=96,
        device="cpu",
        precision="float32",
        workers=0,
        plain=plain,
    )
    device = device_of(ALONE, config, detect())
    built = build_model(model, ["person"], "none", config.image_size, frozen=frozen)
    trained = Restored(built, *equip(built, device), MicroBatch(4))
    assert isinstance(built.model.roi_heads.box_roi_pool, SparseRoIAlign) != plain
    steps = run_steps(config, samples, trained, device, ALONE, 0, lambda _: None)
    found = [list(step.losses.values()) for step, _ in zip(steps, range(STEPS), strict=False)]
    return torch.tensor(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "frozen", "learning_rate"), [("small", False, 1e-3), ("resnet18", True, 1e-3)]
)
def test_fifty_steps_have_the_plain_losses(samples, model, frozen, learning_rate):
    plain, quick = (losses(samples, model, frozen, way, learning_rate) for way in (True, False))
    assert plain.shape == (STEPS, 4)
    assert plain[-5:].sum() < plain[:5].sum(), "something is learnt"
    torch.testing.assert_close(quick, plain, rtol=1e-3, atol=1e-3)


def test_plain_is_float32_unless_another_precision_is_asked_for():
    for precision, wanted in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        config = BenchConfig(device="cpu", precision=precision, plain=True)
        device = device_of(ALONE, config, detect())
        assert (device.dtype, device.quick, device.channels_last) == (wanted, False, False)
        assert device.reason.endswith("plain: asked for")
