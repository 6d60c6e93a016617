"""Boxes on images, and sheets of such images.

Shape suffixes: H height, W width, C channels, 3 colour channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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


@dataclass(frozen=True)
class DrawnBox:
    """One box to draw."""

    xywh: Sequence[float]
    """x, y, width, height in pixels of the image."""
    colour: Colour
    label: str = ""
    hatched: bool = False
    """Crowd regions are hatched."""


def colour_of(category: int) -> Colour:
    """Colour of a category id, 1..K."""
    return PALETTE[(category - 1) % len(PALETTE)]


def draw_boxes(image_HWC: np.ndarray, boxes: Sequence[DrawnBox], width: int = 320) -> Image.Image:
    """An image scaled to a width, with boxes on it.

    Args:
        image_HWC: uint8 [H, W, 3].
        boxes: what to draw, in pixels of the unscaled image.
        width: of the result, in pixels.
    """
    scale = width / image_HWC.shape[1]
    size = (width, max(1, round(image_HWC.shape[0] * scale)))
    picture = Image.fromarray(image_HWC).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        x, y, w, h = (value * scale for value in box.xywh)
        corners = (x, y, max(x, x + w - 1), max(y, y + h - 1))
        if box.hatched:
            _hatch(picture, corners, box.colour)
        pen.rectangle(corners, outline=box.colour, width=2)
        if box.label:
            _write_label(pen, x, y, box)
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
            pen.text((x, y), _fitting(pen, caption, picture.width), fill="black", font=_font())
            sheet.paste(picture, (x, y + _CAPTION))
        y += height
    return sheet


def _hatch(picture: Image.Image, corners: tuple[float, ...], colour: Colour) -> None:
    """Diagonal lines inside a box."""
    x1, y1, x2, y2 = (round(c) for c in corners)
    if x2 <= x1 or y2 <= y1:
        return
    inside = picture.crop((x1, y1, x2, y2))
    pen = ImageDraw.Draw(inside)
    for start in range(-inside.height, inside.width, 8):
        pen.line((start, inside.height, start + inside.height, 0), fill=colour)
    picture.paste(inside, (x1, y1))


def _write_label(pen: ImageDraw.ImageDraw, x: float, y: float, box: DrawnBox) -> None:
    """The label on a strip of the box's colour, above the box where there is room."""
    left, top, right, bottom = pen.textbbox((0, 0), box.label, font=_font())
    height = bottom - top + 2
    y = y - height if y >= height else y
    pen.rectangle((x, y, x + right - left + 4, y + height), fill=box.colour)
    pen.text((x + 2, y - top + 1), box.label, fill="black", font=_font())


def _fitting(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The end of a text that fits a width: of a file name the end tells the most."""
    if pen.textlength(text, font=_font()) <= width:
        return text
    while text and pen.textlength("…" + text, font=_font()) > width:
        text = text[1:]
    return "…" + text


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(11)
