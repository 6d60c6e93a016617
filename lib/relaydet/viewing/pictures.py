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
