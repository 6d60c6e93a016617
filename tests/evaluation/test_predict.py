"""Predicting: every image once, in the dataset's order, as COCO results."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relaydet.data.loader import evaluation_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.evaluation.predict import predict


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
