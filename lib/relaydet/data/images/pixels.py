"""Image files as bytes: what their headers say, and their pixels.

EXIF orientation is never applied, neither to sizes nor to pixels: COCO's boxes are drawn on the
pixels as stored. `Header.orientation` tells where a viewer would turn the image.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from relaydet.errors import RelayError

EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
END_OF_JPEG = b"\xff\xd9"
TAIL_BYTES = 64  # some cameras write a little behind the end of a JPEG


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before its pixels."""

    width: int
    """Pixels, as stored."""
    height: int
    """Pixels, as stored."""
    orientation: int = UPRIGHT
    """EXIF orientation, 1 to 8; 5 to 8 mean that viewers swap width and height."""
    mode: str = "RGB"
    """Pillow's name of how pixels are stored: RGB, L (grey), CMYK, P (palette), ..."""


def header_of(data: bytes, name: str) -> Header:
    """What an image file says of itself, without decoding it unless it seems cut off.

    Args:
        data: the bytes of the file.
        name: what to call it in an error message.

    Raises:
        RelayError: the bytes are not an image, or only part of one.
    """
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            # A half-copied JPEG has no end marker where it should be.
            if image.format == "JPEG" and END_OF_JPEG not in data[-TAIL_BYTES:]:
                image.load()
            return Header(image.width, image.height, _orientation(image), image.mode)
    except Exception as error:  # Pillow's format plugins raise whatever a broken file provokes
        raise RelayError(unreadable(name, error)) from error


def decode_rgb(data: bytes, name: str) -> np.ndarray:
    """Decode an image file to RGB; grey, palette, CMYK and 16-bit images are converted.

    Args:
        data: the bytes of the file.
        name: what to call it in an error message.

    Returns:
        uint8 array [height, width, 3], rows from the top, not turned by EXIF.

    Raises:
        RelayError: the bytes are not an image, or only part of one.
    """
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I;16"):
                # Pillow clips 16-bit grey at 255 instead of scaling it.
                grey_HW = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
                return np.repeat(grey_HW[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's format plugins raise whatever a broken file provokes
        raise RelayError(unreadable(name, error)) from error


def _orientation(image: PillowImage.Image) -> int:
    # Asking a PNG without EXIF for it makes Pillow decode the whole image.
    if "exif" not in image.info:
        return UPRIGHT
    value = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def unreadable(name: str, error: Exception) -> str:
    """The sentence about an image that cannot be read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{name}: the image cannot be read ({reason}); replace the file or remove the image."
