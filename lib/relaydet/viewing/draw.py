"""Boxes on images, and sheets of such images.

Shape suffixes: H height, W width, C channels, 3 colour channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from relaydet.viewing.lettering import fitting, font_of, legible, shortened

Colour = tuple[int, int, int]

# Colours that stay apart for most kinds of colour blindness (Okabe and Ito, "Color Universal
# Design", 2008).
PALETTE: tuple[Colour, ...] = (
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
)
GREEN, ORANGE, RED, BLUE = (0, 158, 115), (230, 159, 0), (220, 50, 47), (86, 180, 233)
_MARGIN = 6
_CAPTION = 16
_LEGEND_ROW = 18
_LEGEND_ENTRIES = 40
# A picture of an image that is a narrow strip would grow without end on its way to the full width.
_TALLEST = 4


@dataclass(frozen=True)
class DrawnBox:
    """One box to draw."""

    xywh: Sequence[float]
    """x, y, width, height in pixels of the image."""
    colour: Colour
    label: str = ""
    hatched: bool = False
    """Crowd regions are hatched."""


@dataclass(frozen=True)
class Key:
    """One entry of a legend."""

    name: str
    colour: Colour
    hatched: bool = False


def colour_of(category: int) -> Colour:
    """Colour of a category id, 1..K."""
    return PALETTE[(category - 1) % len(PALETTE)]


def draw_boxes(image_HWC: np.ndarray, boxes: Sequence[DrawnBox], width: int = 320) -> Image.Image:
    """An image scaled to a width, with boxes on it.

    Args:
        image_HWC: uint8 [H, W, 3].
        boxes: what to draw, in pixels of the unscaled image.
        width: of the result, in pixels; less where it would get more than 4 times as high.
    """
    scale = min(width / image_HWC.shape[1], _TALLEST * width / image_HWC.shape[0])
    size = (max(1, round(image_HWC.shape[1] * scale)), max(1, round(image_HWC.shape[0] * scale)))
    picture = Image.fromarray(image_HWC).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        x, y, w, h = (value * scale for value in box.xywh)
        corners = (x, y, max(x, x + w - 1), max(y, y + h - 1))
        if box.hatched:
            _hatch(picture, corners, box.colour)
        pen.rectangle(corners, outline=box.colour, width=2)
        if box.label:
            _write_label(pen, x, y, box, picture.width)
    return picture


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height in a row."""
    width = sum(picture.width for picture in pictures) + _MARGIN * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    x = 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width + _MARGIN
    return row


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], columns: int = 4
) -> Image.Image:
    """Pictures with a caption above each, in rows."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(p.height for p in row) + _CAPTION + _MARGIN for row in rows]
    column = max((p.width for p in pictures), default=1) + _MARGIN
    used = min(columns, max(1, len(pictures)))
    sheet = Image.new("RGB", (column * used + _MARGIN, sum(heights) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    y = _MARGIN
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for place, picture in enumerate(row):
            x = _MARGIN + place * column
            caption = captions[number * columns + place]
            _write(pen, (x, y), fitting(caption, picture.width))
            sheet.paste(picture, (x, y + _CAPTION))
        y += height
    return sheet


def with_legend(picture: Image.Image, keys: Sequence[Key]) -> Image.Image:
    """A picture with a strip below that names the colours; none where there is nothing to name."""
    if not keys:
        return picture
    places = _legend_places(keys, picture.width)
    height = places[-1][1] + _LEGEND_ROW + _MARGIN
    result = Image.new("RGB", (picture.width, picture.height + height), "white")
    result.paste(picture, (0, 0))
    pen = ImageDraw.Draw(result)
    for key, (x, y) in zip(keys, places, strict=False):
        top = picture.height + y
        swatch = (x, top + 2, x + 18, top + 13)
        if key.hatched:
            _hatch(result, swatch, key.colour)
        pen.rectangle(swatch, outline="black", fill=None if key.hatched else key.colour)
        _write(pen, (x + 23, top), _legend_text(key.name, picture.width))
    if len(places) > len(keys[:_LEGEND_ENTRIES]):
        x, y = places[-1]
        _write(pen, (x, picture.height + y), f"and {len(keys) - _LEGEND_ENTRIES} more")
    return result


def message_tile(text: str, width: int = 320) -> Image.Image:
    """A grey picture with a sentence, in place of one that cannot be shown."""
    lines: list[str] = []
    line = ""
    for word in legible(text[:2000]).split():
        for piece in (word[i : i + 40] for i in range(0, len(word), 40)):
            if line and font_of(line).getlength(f"{line} {piece}") > width - 4 * _MARGIN:
                lines, line = [*lines, line], piece
            else:
                line = f"{line} {piece}".strip()
    lines = [*lines, line][:12]
    tile = Image.new("RGB", (width, max(width * 3 // 4, 16 * len(lines) + 24)), (235, 235, 235))
    pen = ImageDraw.Draw(tile)
    for number, words in enumerate(lines):
        _write(pen, (2 * _MARGIN, 12 + 16 * number), words)
    return tile


def _legend_places(keys: Sequence[Key], width: int) -> list[tuple[int, int]]:
    """Upper left corner of each entry, in rows; one more where not all of them have room."""
    names = [key.name for key in keys[:_LEGEND_ENTRIES]]
    names += ["and more of them"] if len(keys) > _LEGEND_ENTRIES else []
    places, x, y = [], _MARGIN, _MARGIN
    for name in names:
        text = _legend_text(name, width)
        length = 40 + round(font_of(text).getlength(text))
        if x > _MARGIN and x + length > width:
            x, y = _MARGIN, y + _LEGEND_ROW
        places.append((x, y))
        x += length
    return places


def _legend_text(name: str, width: int) -> str:
    return fitting(shortened(name, 32), width - 40)


def _hatch(picture: Image.Image, corners: tuple[float, ...], colour: Colour) -> None:
    """Diagonal lines inside a box."""
    x1, y1, x2, y2 = (round(c) for c in corners)
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, picture.width), min(y2, picture.height)
    if x2 <= x1 or y2 <= y1:
        return
    inside = picture.crop((x1, y1, x2, y2))
    pen = ImageDraw.Draw(inside)
    for start in range(-inside.height, inside.width, 8):
        pen.line((start, inside.height, start + inside.height, 0), fill=colour)
    picture.paste(inside, (x1, y1))


def _write_label(pen: ImageDraw.ImageDraw, x: float, y: float, box: DrawnBox, width: int) -> None:
    """The label on a strip of the box's colour, above the box where there is room."""
    text = shortened(box.label, 24)
    left, top, right, bottom = font_of(text).getbbox(text)
    height = bottom - top + 2
    x = max(0.0, min(x, width - (right - left + 5)))
    y = y - height if y >= height else y
    pen.rectangle((x, y, x + right - left + 4, y + height), fill=box.colour)
    pen.text((x + 2, y - top + 1), text, fill="black", font=font_of(text))


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    pen.text(place, text, fill="black", font=font_of(text))
