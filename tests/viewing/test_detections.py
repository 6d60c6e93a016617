"""Detections beside ground truth: each kind of box in its colour, on its side."""

from __future__ import annotations

import numpy as np
import pytest

from relaydet.data.loader import evaluation_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.viewing.detections import detection_sheet
from relaydet.viewing.draw import BLUE, GREEN, ORANGE, RED

COLOURS = {"green": GREEN, "orange": ORANGE, "red": RED, "blue": BLUE}
MIDDLE = 6 + 320 + 3
BOX, ELSEWHERE = [10, 10, 40, 30], [80, 60, 30, 30]


@pytest.fixture(scope="module")
def samples(tiny_demo):
    saved = load_dataset(tiny_demo, "demo_heldout")
    return evaluation_samples(saved.dataset, open_sources(saved))


def truth(image_id: int, box=BOX, crowd: int = 0):
    return {"image_id": image_id, "category_id": 1, "bbox": box, "iscrowd": crowd}


def found(image_id: int, box=BOX, score: float = 0.9):
    return {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}


def colours(half: np.ndarray) -> set[str]:
    """Colours that a clear number of pixels have: outlines do, single pixels of a photo do not."""
    return {name for name, c in COLOURS.items() if (half == c).all(axis=2).sum() > 100}


@pytest.mark.parametrize(
    ("truths", "detections", "left", "right"),
    [
        pytest.param([], [], set(), set(), id="nothing"),
        pytest.param([truth], [found], {"green"}, {"green"}, id="found"),
        pytest.param([truth], [], {"red"}, set(), id="missed"),
        pytest.param([], [found], set(), {"orange"}, id="wrong"),
        pytest.param(
            [truth], [lambda i: found(i, score=0.4)], {"red"}, set(), id="below the shown score"
        ),
        pytest.param([lambda i: truth(i, crowd=1)], [], {"blue"}, set(), id="crowd"),
        pytest.param(
            [truth], [lambda i: found(i, ELSEWHERE)], {"red"}, {"orange"}, id="missed and wrong"
        ),
        pytest.param(
            [truth, lambda i: truth(i, [0, 0, 1, 1])],
            [found, lambda i: found(i, [5, 5, 0, 0])],
            *({"green"}, {"green"}),
            id="tiny boxes",
        ),
    ],
)
def test_each_kind_has_its_colour(samples, truths, detections, left, right):
    image_id = int(samples.image_ids_M[0])
    sheet = detection_sheet(
        samples, [make(image_id) for make in truths], [make(image_id) for make in detections], 1
    )
    pixels = np.asarray(sheet)
    assert (colours(pixels[:, :MIDDLE]), colours(pixels[:, MIDDLE:])) == (left, right)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 1), (3, 2), (6, 3), (50, 3)])
def test_a_sheet_shows_so_many_images(samples, count, rows):
    one = detection_sheet(samples, [], [], 1).height
    many = detection_sheet(samples, [], [], count).height
    assert (many - 6) == rows * (one - 6)
