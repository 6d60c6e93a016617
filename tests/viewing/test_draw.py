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
    Key,
    colour_of,
    contact_sheet,
    draw_boxes,
    message_tile,
    side_by_side,
    with_legend,
)

BLACK = np.zeros((40, 80, 3), np.uint8)


def pixels_of(picture: Image.Image, colour) -> np.ndarray:
    """Which pixels have a colour: bool [H, W]."""
    return (np.asarray(picture) == colour).all(axis=2)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (40, 80, (320, 160)),
        (80, 40, (320, 640)),
        (1, 1, (320, 320)),
        (1, 3000, (320, 1)),
        (3000, 1, (1, 1280)),
        (800, 100, (160, 1280)),
    ],
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


@pytest.mark.parametrize("x", [-30, 0, 60, 79])
def test_a_label_stays_in_the_picture(x):
    boxes = [DrawnBox((x, 20, 10, 10), GREEN, "a long name of a category, far too long")]
    labelled = np.asarray(draw_boxes(BLACK, boxes))
    plain = np.asarray(draw_boxes(BLACK, [DrawnBox((x, 20, 10, 10), GREEN)]))
    columns = np.flatnonzero((labelled != plain).any(axis=(0, 2)))
    assert columns[-1] - columns[0] > 100
    strip = labelled[75, columns[0] : columns[-1] + 1]
    assert (strip == GREEN).all(axis=1).any()


def test_a_tall_strip_keeps_its_boxes_in_place():
    picture = draw_boxes(np.zeros((800, 100, 3), np.uint8), [DrawnBox((0, 400, 100, 400), GREEN)])
    rows = np.flatnonzero(pixels_of(picture, GREEN).any(axis=1))
    assert (rows[0], rows[-1]) == (640, 1279)


@pytest.mark.parametrize(
    ("names", "width"),
    [
        (["person"], 300),
        (["person", "car", "dog"], 300),
        (["a very long name that goes on and on"] * 3, 120),
        ([f"category {n}" for n in range(7)], 100),
        (["人", "a\nb", "", "\ud800"], 300),
    ],
    ids=["one", "three", "long", "rows", "odd"],
)
def test_a_legend_has_a_swatch_for_each(names, width):
    keys = [Key(name, colour_of(n + 1)) for n, name in enumerate(names)]
    picture = with_legend(Image.new("RGB", (width, 50), RED), keys)
    assert picture.width == width
    assert pixels_of(picture, RED)[:50].all()
    strip = picture.crop((0, 50, width, picture.height))
    for key in keys:
        assert pixels_of(strip, key.colour).sum() > 100


def test_a_hatched_swatch_is_not_filled():
    picture = with_legend(Image.new("RGB", (99, 9)), [Key("crowd", GREEN, hatched=True)])
    assert 10 < pixels_of(picture, GREEN).sum() < 100


def test_a_legend_of_nothing_is_no_legend():
    picture = Image.new("RGB", (30, 20), RED)
    assert with_legend(picture, []) is picture


def test_a_legend_ends_somewhere():
    few, many = (
        with_legend(Image.new("RGB", (200, 9)), [Key(f"category {n}", RED) for n in range(count)])
        for count in (45, 5000)
    )
    assert few.height == many.height
    assert (np.asarray(few) != np.asarray(many)).any(), "the number of the others"


@pytest.mark.parametrize("text", ["", "short", "x" * 5000, "many words " * 500, "日本 \0"])
def test_a_message_is_a_picture(text):
    tile = message_tile(text)
    assert tile.width == 320
    assert 240 <= tile.height < 400
    assert (pixels_of(tile, (235, 235, 235)).all()) == (not text)
