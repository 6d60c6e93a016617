"""A dataset drawn: what is on the sheet, and the sizes of its objects."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PillowImage

from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.images import open_images
from relaydet.viewing.draw import PALETTE
from relaydet.viewing.samples import object_sizes, sample_sheet


@pytest.fixture
def folders(tmp_path):
    for number in range(1, 6):
        PillowImage.new("RGB", (100, 50)).save(tmp_path / f"{number}.png")
    return {"a": open_images(str(tmp_path))}


def dataset(*boxes) -> Dataset:
    """Five images of source a; boxes are (image, category, crowd)."""
    images = [Image(i, f"a/{i}.png", 100, 50, source="a") for i in range(1, 6)]
    annotations = [
        Annotation(n, image, category, (10.0, 10.0, 50.0, 25.0), 1250.0, iscrowd=crowd)
        for n, (image, category, crowd) in enumerate(boxes, start=1)
    ]
    return Dataset(images, annotations, [Category(1, "person"), Category(2, "car")])


def has(sheet: PillowImage.Image, colour) -> bool:
    return bool((np.asarray(sheet) == colour).all(axis=2).any())


def test_boxes_have_the_colour_of_their_category(folders):
    sheet = sample_sheet(dataset((1, 2, 0)), folders, "a")
    assert has(sheet, PALETTE[1])
    assert not has(sheet, PALETTE[0])


def test_crowds_are_hatched(folders):
    plain = sample_sheet(dataset((1, 1, 0)), folders, "a")
    crowd = sample_sheet(dataset((1, 1, 1)), folders, "a")
    coloured = [(np.asarray(s) == PALETTE[0]).all(axis=2).sum() for s in (plain, crowd)]
    assert coloured[1] > 1.5 * coloured[0]


@pytest.mark.parametrize(
    ("boxes", "count", "shown"),
    [
        pytest.param([], 8, 0, id="nothing annotated"),
        pytest.param([(3, 1, 0)], 8, 1, id="fewer than asked for"),
        pytest.param([(i, 1, 0) for i in range(1, 6)], 3, 3, id="a choice"),
        pytest.param([(i, 1, 0) for i in range(1, 6)], 1, 1, id="one"),
    ],
)
def test_so_many_images_are_shown(folders, boxes, count, shown):
    sheet = sample_sheet(dataset(*boxes), folders, "a", count)
    black = (np.asarray(sheet)[-20:-7] == 0).all(axis=2).any(axis=0)  # below captions and boxes
    assert (np.diff(black.astype(int)) == 1).sum() == shown


def test_a_source_without_images_is_an_empty_sheet(folders):
    assert not has(sample_sheet(dataset((1, 1, 0)), folders, "b"), PALETTE[0])


def test_object_sizes_leave_crowds_out():
    sizes = object_sizes(dataset((1, 1, 0), (2, 2, 0), (3, 1, 1)))
    assert {source: values.tolist() for source, values in sizes.items()} == {"a": [0.5, 0.5]}
    assert object_sizes(dataset()) == {}
