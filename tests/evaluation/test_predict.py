"""Predicting: every image once, in the dataset's order, as COCO results."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relaydet.data.loader import evaluation_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.errors import RelayError
from relaydet.evaluation.predict import predict
from relaydet.model import build_model


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
    assert predict(WholeImage(), samples, torch.device("cpu"), batch_size) == expected


def detections(samples, batch_size: int, most: int | None = None):
    """What a real detector finds where only so many images fit; and what was said."""
    model = build_model("small", ["person"], "none", image_size=64, seed=3).model
    model.roi_heads.score_thresh = 0.0
    said, calls = [], []

    def limit(rpn, inputs) -> None:
        calls.append(len(inputs[0].image_sizes))
        if most is not None and calls[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    model.rpn.register_forward_pre_hook(limit)
    found = predict(model, samples, torch.device("cpu"), batch_size, say=said.append)
    return found, said, calls


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


def test_one_image_that_does_not_fit_is_explained(tiny_demo):
    saved = load_dataset(tiny_demo, "demo_heldout")
    samples = evaluation_samples(saved.dataset, open_sources(saved))
    with pytest.raises(RelayError, match="too small for one image; take DEVICE cpu"):
        detections(samples, 4, most=0)
