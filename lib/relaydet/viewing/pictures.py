"""Pictures as PNG files, for a notebook, a report and the store alike."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows; a notebook shows the picture itself."""

    png: bytes = field(repr=False)
    caption: str

    def _repr_png_(self) -> bytes:
        return self.png


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


LARGE = 200_000
"""Bytes of a PNG from which a page takes a JPEG: photos in a sheet, and no chart."""


def for_page(picture: Picture) -> bytes:
    """The picture as an image file that does not make a page heavy: PNG, or JPEG if large."""
    if len(picture.png) < LARGE:
        return picture.png
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture.png), formats=["PNG"]) as opened:
        opened.convert("RGB").save(buffer, format="JPEG", quality=88)
    return min(picture.png, buffer.getvalue(), key=len)
