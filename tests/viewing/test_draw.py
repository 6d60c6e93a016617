"""Boxes on images: sizes, and colours at the pixels where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from relaydet.viewing.draw import (
    GREEN,
    PALETTE,
    RED,
    DrawnBox,
    colour_of,
    contact_sheet,
    draw_boxes,
    side_by_side,
)

BLACK = np.zeros((40, 80, 3), np.uint8)


def pixels_of(picture: Image.Image, colour) -> np.ndarray:
    """Which pixels have a colour: bool [H, W]."""
    return (np.asarray(picture) == colour).all(axis=2)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(40, 80, (320, 160)), (80, 40, (320, 640)), (1, 1, (320, 320)), (1, 3000, (320, 1))],
)
def test_images_are_scaled_to_a_width(height, width, expected):
    assert draw_boxes(np.zeros((height, width, 3), np.uint8), []).size == expected


def test_without_boxes_nothing_is_drawn():
    assert np.asarray(draw_boxes(BLACK, [])).max() == 0


@pytest.mark.parametrize("hatched", [False, True])
def test_a_box_is_outlined_and_only_a_crowd_is_hatched(hatched):
    picture = draw_boxes(BLACK, [DrawnBox((10, 5, 30, 20), GREEN, hatched=hatched)], width=160)
    green = pixels_of(picture, GREEN)
    rows, columns = np.where(green)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 10, 79, 49)
    assert green[10, 20:80].all()
    assert green[10:50, 20].all()
    assert green[49, 20:80].all()
    assert green[10:50, 79].all()
    inside = green[13:46, 23:76]
    assert inside.any() == hatched
    assert not inside.all(), "the object stays visible"


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 1, 1),
        (5, 5, 0, 0),
        (0, 0, 80, 40),
        (79.5, 39.5, 0.5, 0.5),
        (-20, -20, 200, 100),
        (200, 200, 5, 5),
        (5, 5, 0.1, 30),
    ],
    ids=str,
)
@pytest.mark.parametrize("hatched", [False, True])
def test_no_box_is_too_small_or_too_far_out(box, hatched):
    for width in (20, 320):
        boxes = [DrawnBox(box, RED, "0.99", hatched)]
        assert draw_boxes(BLACK, boxes, width).size == (width, width // 2)


@pytest.mark.parametrize(("y", "above"), [(20, True), (0, False)], ids=["above", "no room above"])
def test_a_label_is_readable(y, above):
    plain = draw_boxes(BLACK, [DrawnBox((10, y, 60, 15), GREEN)])
    labelled = draw_boxes(BLACK, [DrawnBox((10, y, 60, 15), GREEN, "person")])
    rows, columns = np.where((np.asarray(plain) != np.asarray(labelled)).any(axis=2))
    top = y * 4
    assert (rows.max() <= top) if above else (rows.min() >= top)
    strip = np.asarray(labelled)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (strip == GREEN).all(axis=2).any()
    assert (strip == 0).all(axis=2).any(), "black letters"


def test_the_image_is_left_as_it_was():
    image = BLACK.copy()
    draw_boxes(image, [DrawnBox((0, 0, 80, 40), RED, "x", hatched=True)], width=80)
    assert image.max() == 0


def test_colours_of_categories():
    assert [colour_of(k) for k in (1, 2, len(PALETTE) + 1)] == [PALETTE[0], PALETTE[1], PALETTE[0]]
    assert len(set(PALETTE)) == len(PALETTE)


def test_side_by_side_keeps_both():
    row = side_by_side([Image.new("RGB", (10, 20), RED), Image.new("RGB", (30, 20), GREEN)])
    assert row.height == 20
    assert pixels_of(row, RED)[:, :10].all()
    assert pixels_of(row, GREEN)[:, -30:].all()
    assert row.width > 40


@pytest.mark.parametrize(
    ("count", "columns", "rows", "across"),
    [(0, 4, 0, 1), (1, 4, 1, 1), (4, 4, 1, 4), (5, 4, 2, 4), (3, 1, 3, 1)],
)
def test_a_sheet_has_rows_and_columns(count, columns, rows, across):
    tile = Image.new("RGB", (40, 20), RED)
    captions = ["a/very/long/path/to/an/image/number/1.jpg"] * count
    sheet = contact_sheet([tile] * count, captions, columns)
    red = pixels_of(sheet, RED)
    assert red.sum() == count * 40 * 20, "no caption covers a picture"
    starts_down = np.flatnonzero(np.diff(red.any(axis=1).astype(int)) == 1)
    starts_across = np.flatnonzero(np.diff(red.any(axis=0).astype(int)) == 1)
    assert len(starts_down) == rows
    assert len(starts_across) == (across if count else 0)
