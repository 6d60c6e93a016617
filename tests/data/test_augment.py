"""Augmentation keeps boxes on their objects and depends on its key alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaydet.data.augment import Augmentation, augment

STILL = Augmentation(flip=0.0)
FLIP = Augmentation(flip=1.0)
WIDTH, HEIGHT = 10, 6
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def boxes(*corners: tuple[float, ...]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([], [], id="no box"),
        pytest.param([(1, 2, 4, 5)], [(6, 2, 9, 5)], id="left to right"),
        pytest.param([(0, 0, 10, 6)], [(0, 0, 10, 6)], id="whole image"),
        pytest.param([(0, 1, 1, 2)], [(9, 1, 10, 2)], id="first column"),
        pytest.param([(2.5, 0, 3, 1)], [(7, 0, 7.5, 1)], id="half pixels"),
        pytest.param(
            [(1, 0, 2, 1), (7, 0, 9, 1)], [(8, 0, 9, 1), (1, 0, 3, 1)], id="order is kept"
        ),
    ],
)
def test_a_flip_mirrors_boxes(before, after):
    given_boxes = boxes(*before)
    image, mirrored = augment(NOISE, given_boxes, FLIP, (0, 0, 0))
    np.testing.assert_array_equal(image, NOISE[:, ::-1])
    np.testing.assert_array_equal(mirrored, boxes(*after))
    np.testing.assert_array_equal(given_boxes, boxes(*before), "the caller's boxes are left alone")


def test_a_box_stays_on_its_pixels():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[2:5, 1:4] = 255
    flipped, ((x1, y1, x2, y2),) = augment(image, boxes((1, 2, 4, 5)), FLIP, (0, 0, 0))
    assert flipped[int(y1) : int(y2), int(x1) : int(x2)].min() == 255
    assert flipped.sum() == image.sum()


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4),
    st.integers(0, 2**31),
    st.floats(0, 1),
)
def test_boxes_stay_in_the_image(spans, seed, amount):
    corners = [(min(s) * WIDTH, 0, max(s) * WIDTH, HEIGHT) for s in spans]
    augmentation = Augmentation(0.5, brightness=amount, contrast=amount)
    image, changed = augment(NOISE, boxes(*corners), augmentation, (seed, 0, 0))
    assert (image.shape, image.dtype) == (NOISE.shape, np.uint8)
    assert changed.shape == (len(spans), 4)
    assert (changed[:, 0] <= changed[:, 2]).all()
    assert (changed >= 0).all()
    assert (changed[:, 2] <= WIDTH).all()


EVERYTHING = Augmentation(flip=0.5, brightness=0.3, contrast=0.3)


def outcome(augmentation: Augmentation, *key: int) -> bytes:
    image, changed = augment(NOISE, boxes((1, 2, 4, 5)), augmentation, key)
    return image.tobytes() + changed.tobytes()


def test_the_key_alone_decides():
    first = outcome(EVERYTHING, 1, 2, 3)
    outcome(EVERYTHING, 4, 4, 4)
    assert outcome(EVERYTHING, 1, 2, 3) == first
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert outcome(EVERYTHING, *other) != first


def test_about_half_of_the_images_are_flipped():
    unflipped = outcome(STILL, 0, 0, 0)
    flips = sum(outcome(Augmentation(), 0, 0, index) != unflipped for index in range(400))
    assert 150 < flips < 250


@pytest.mark.parametrize(
    ("augmentation", "same_light"),
    [
        pytest.param(STILL, True, id="nothing asked for"),
        pytest.param(Augmentation(0, brightness=0.5), False, id="brightness"),
        pytest.param(Augmentation(0, contrast=0.5), False, id="contrast"),
    ],
)
def test_relighting_moves_nothing(augmentation, same_light):
    image, kept = augment(NOISE, boxes((1, 2, 4, 5)), augmentation, (0, 0, 0))
    assert np.array_equal(image, NOISE) == same_light
    assert kept.tolist() == [[1, 2, 4, 5]]
    order = np.argsort(NOISE, axis=None, kind="stable")
    assert (np.diff(image.ravel()[order].astype(int)) >= 0).all(), "brighter stays brighter"


def test_contrast_keeps_a_flat_image():
    flat = np.full((4, 4, 3), 90, np.uint8)
    image, _ = augment(flat, boxes(), Augmentation(0, contrast=0.9), (0, 0, 0))
    assert (image == 90).all()
