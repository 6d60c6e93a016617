"""Predicting: every image once, in the dataset's order, as COCO results."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from relaydet.data.loader import batches_of_one_shape, evaluation_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.errors import RelayError
from relaydet.evaluation import predict as module
from relaydet.evaluation.predict import predict
from relaydet.evaluation.shards import Shards
from relaydet.model import build_model
from relaydet.storage.local import LocalStore

CPU = torch.device("cpu")


class WholeImage(nn.Module):
    """Finds one box that is the image, and one in its middle."""

    def forward(self, images):
        assert not self.training
        assert not torch.is_grad_enabled()
        found = []
        for image in images:
            assert image.dtype == torch.float32
            assert 0 <= image.min() <= image.max() <= 1
            height, width = image.shape[1:]
            boxes = [[0, 0, width, height], [width / 4, height / 4, width / 2, height / 2]]
            scores, labels = torch.tensor([0.75, 0.5]), torch.tensor([1, 2])
            found.append({"boxes": torch.tensor(boxes), "scores": scores, "labels": labels})
        return found


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_predictions_are_coco_results_in_the_datasets_order(tiny_demo, batch_size):
    saved = load_dataset(tiny_demo, "demo")
    samples = evaluation_samples(saved.dataset, open_sources(saved))
    expected = [
        result
        for image in saved.dataset.images
        for result in (
            {
                "image_id": image.id,
                "category_id": 1,
                "score": 0.75,
                "bbox": [0, 0, image.width, image.height],
            },
            {
                "image_id": image.id,
                "category_id": 2,
                "score": 0.5,
                "bbox": [x / 4 for x in (image.width, image.height) * 2],
            },
        )
    ]
    result = predict(WholeImage(), samples, torch.device("cpu"), batch_size)
    assert result.detections == expected
    assert result.images == len(samples)
    assert result.loading_seconds > 0
    assert result.inference_seconds > 0


def detections(samples, batch_size: int, most: int | None = None, devices=CPU):
    """What a real detector finds where only so many images fit; and what was said."""
    model = build_model("small", ["person"], "none", image_size=64, seed=3).model
    model.roi_heads.score_thresh = 0.0
    said, calls = [], []

    def limit(rpn, inputs) -> None:
        calls.append(len(inputs[0].image_sizes))
        if most is not None and calls[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    model.rpn.register_forward_pre_hook(limit)
    found = predict(model, samples, devices, batch_size, say=said.append)
    return found.detections, said, calls


def test_where_memory_runs_out_half_the_images_give_the_same_detections(tiny_demo):
    saved = load_dataset(tiny_demo, "demo_heldout")
    samples = evaluation_samples(saved.dataset, open_sources(saved))
    assert len(samples) == 6
    whole, nothing, calls = detections(samples, 4)
    assert (nothing, calls) == ([], [4, 2])
    halved, said, calls = detections(samples, 4, most=1)
    assert calls == [4, 2, 1, 1, 1, 1, 1, 1], "from there on"
    assert len(said) == 2
    assert said[0] == "4 images at once did not fit into the memory; from here on 2"
    assert len(whole) == len(halved) > 50
    for ours, theirs in zip(halved, whole, strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], 1)
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=2e-3)
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_on_a_gpu_a_batch_is_tried_again_before_it_is_halved(monkeypatch, tiny_demo):
    """Its cache, which may hold pieces of a wrong size, is emptied in between."""
    monkeypatch.setattr("relaydet.training.micro_batch.has_cache", lambda device: True)
    saved = load_dataset(tiny_demo, "demo_heldout")
    samples = evaluation_samples(saved.dataset, open_sources(saved))
    _, said, calls = detections(samples, 4, most=1)
    assert calls == [4, 4, 2, 1, 1, 1, 1, 1, 1]
    assert said[0] == "4 images at once did not fit into the memory; trying again"
    assert said[1] == "4 images at once did not fit into the memory; from here on 2"


def test_one_image_that_does_not_fit_is_explained(tiny_demo):
    saved = load_dataset(tiny_demo, "demo_heldout")
    samples = evaluation_samples(saved.dataset, open_sources(saved))
    with pytest.raises(RelayError, match="too small for one image; take DEVICE cpu"):
        detections(samples, 4, most=0)


class Counting(WholeImage):
    """Says which images it was given, and dies at one of them."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        self.given, self.dies_at = [], dies_at

    def __deepcopy__(self, memo):
        return self

    def forward(self, images):
        for _ in images:
            self.given.append(1)
            if len(self.given) == self.dies_at:
                raise KeyboardInterrupt
        return super().forward(images)


@pytest.fixture
def heldout(tiny_demo):
    saved = load_dataset(tiny_demo, "demo_heldout")
    return evaluation_samples(saved.dataset, open_sources(saved))


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCHES", 2)
    return Shards(LocalStore(tmp_path), "parts", "this model on that dataset")


def run(model, samples, shards=None, devices=CPU, batch_size=1, said=None):
    say = (said if said is not None else []).append
    return predict(model, samples, devices, batch_size, say=say, shards=shards)


@pytest.mark.parametrize("dies_at", range(1, 7))
def test_what_was_finished_before_a_kill_is_not_done_again(heldout, shards, dies_at):
    whole = run(Counting(), heldout).detections
    with pytest.raises(KeyboardInterrupt):
        run(Counting(dies_at), heldout, shards)
    again, said = Counting(), []
    result = run(again, heldout, shards, said=said)
    kept = (dies_at - 1) // 2 * 2
    assert result.images == len(again.given) == 6 - kept
    assert said == ([f"{kept} of 6 images are predicted already; going on"] if kept else [])
    assert result.detections == whole
    nothing = Counting()
    assert run(nothing, heldout, shards).detections == whole
    assert nothing.given == [], "all of it is there"
    shards.clear()
    assert shards.store.names("parts") == []


def predict_until_killed(demo: Path, folder: Path) -> None:
    """In a process of its own: SIGKILL at the fourth image."""
    module.BATCHES = 2
    saved = load_dataset(LocalStore(demo), "demo_heldout")
    samples = evaluation_samples(saved.dataset, open_sources(saved))

    class Killed(Counting):
        def forward(self, images):
            if len(self.given) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(images)

    run(Killed(), samples, Shards(LocalStore(folder), "parts", "this model on that dataset"))


def test_a_killed_process_leaves_what_it_had_finished(tiny_demo, heldout, shards):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=predict_until_killed, args=(tiny_demo.root, shards.store.root))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    again = Counting()
    result = run(again, heldout, shards)
    assert len(again.given) == 4
    assert result.detections == run(Counting(), heldout).detections


@pytest.mark.parametrize("left", [b"", b'{"key": 3', b"\xff", "another key", "another batch size"])
def test_a_part_that_does_not_fit_is_made_again(heldout, shards, left):
    whole = run(Counting(), heldout, shards).detections
    if isinstance(left, bytes):
        shards.store.write("parts/000001.json", left)
    elif left == "another key":
        shards = Shards(shards.store, "parts", "another model")
    batch_size = 3 if left == "another batch size" else 1
    again = Counting()
    assert run(again, heldout, shards, batch_size=batch_size).detections == whole
    assert len(again.given) == (2 if isinstance(left, bytes) else 6)


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_several_devices_share_the_images(heldout, batch_size):
    one, _, _ = detections(heldout, batch_size)
    two, _, calls = detections(heldout, batch_size, devices=[CPU, CPU, CPU])
    assert two == one
    assert sum(calls) == len(heldout)


def test_an_error_on_one_device_ends_it_all(heldout):
    with pytest.raises(RelayError, match="too small for one image"):
        detections(heldout, 1, most=0, devices=[CPU, CPU])


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds(heldout):
    on_cpu, _, _ = detections(heldout, 3)
    count = torch.cuda.device_count()
    on_gpu, _, _ = detections(heldout, 3, devices=[torch.device("cuda", n) for n in range(count)])
    assert len(on_cpu) == len(on_gpu)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-3)


@pytest.mark.parametrize(
    "sides", [(100, 150), (333, 500), (480, 640), (64, 64), (427, 640), (9, 99)]
)
def test_the_shape_is_what_torchvision_makes_of_it(sides):
    model = build_model("small", ["person"], "none", image_size=96).model.eval()
    images, _ = model.transform([torch.zeros(3, *sides)])
    assert module._shape(model, *sides) == tuple(images.tensors.shape[-2:])
    assert module._shape(model, *sides[::-1]) == tuple(images.tensors.shape[-2:])[::-1]


def test_progress_is_told_the_number_of_batches(heldout):
    told = []

    def progress(batches, total):
        told.append(total)
        return batches

    predict(WholeImage(), heldout, CPU, 4, progress=progress)
    assert told == [len(batches_of_one_shape(heldout, 4, lambda h, w: (h, w)))]
