"""Image files as bytes: what their headers say, and their pixels.

EXIF orientation is never applied, neither to sizes nor to pixels: COCO's boxes are drawn on the
pixels as stored. `Header.orientation` tells where a viewer would turn the image.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from relaydet.errors import RelayError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""What image files are opened as, by Pillow's names: JPEG is also MPO, which phones write, and PPM
is also PGM. Of several pictures in one file the first is taken.

Pillow itself knows forty more, some of which run another program on the file (EPS: Ghostscript).
"""
FORMATS_IN_WORDS = "JPEG, PNG, BMP, GIF, TIFF, WebP, PPM"
MAX_PIXELS = 178_000_000
"""Of an image that is opened at all: RGB of it takes half a gigabyte. Pillow's own limit is just
above, and at half of it Pillow warns."""
EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
END_OF_JPEG = b"\xff\xd9"
TAIL_BYTES = 64  # some cameras write a little behind the end of a JPEG

# Markers of ITU-T T.81 (JPEG), table B.1. The frames named are those that every decoder reads.
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
_START_OF_SCAN = 0xDA
_QUANTISATION = 0xDB
_APP1, _APP2 = 0xE1, 0xE2
# Tables, restart intervals, applications and comments: skipped by their length.
_SKIPPED = frozenset((0xC4, 0xDD, 0xFE, *range(0xE0, 0xF0)))
_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_EXIF = b"Exif\0\0"
_SHORT = 3  # a 16-bit number in TIFF 6.0
# Larger ones go through `open_image`, which refuses what is too large.
_MAX_PLAIN_PIXELS = 89_000_000

# Images between Pillow's warning and MAX_PIXELS are used; larger ones are refused below.
warnings.filterwarnings("ignore", category=PillowImage.DecompressionBombWarning)


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


def open_image(data: bytes) -> PillowImage.Image:
    """Open an image file that is one of FORMATS; its pixels are not decoded yet.

    Args:
        data: the bytes of the file.

    Raises:
        UnidentifiedImageError: it is of another format, or damaged.
        ValueError: it has more than MAX_PIXELS; Pillow raises further exceptions for broken files.
    """
    try:
        image = PillowImage.open(io.BytesIO(data), formats=FORMATS)
    except PillowImage.DecompressionBombError as error:
        raise ValueError(f"it claims more than {MAX_PIXELS // 10**6} million pixels") from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise ValueError(f"it claims {size} pixels; the limit is {MAX_PIXELS // 10**6} million")
    return image


def header_of(data: bytes, name: str) -> Header:
    """What an image file says of itself, without decoding it unless it seems cut off.

    A plain JPEG is read here, as Pillow takes ten times as long to look at one; whatever is
    unusual or broken is left to Pillow.

    Args:
        data: the bytes of the file.
        name: what to call it in an error message.

    Raises:
        RelayError: the bytes are not an image, or only part of one.
    """
    header = _plain_jpeg(data)
    if header is not None:
        return header
    try:
        with open_image(data) as image:
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
        with open_image(data) as image:
            grey_HW = grey_of_16_bits(image)
            if grey_HW is not None:
                return np.repeat(grey_HW[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's format plugins raise whatever a broken file provokes
        raise RelayError(unreadable(name, error)) from error


def grey_of_16_bits(image: PillowImage.Image) -> np.ndarray | None:
    """16-bit grey pixels scaled to uint8 [H, W], where Pillow would clip them; None for others."""
    # Before its version 11 Pillow opens a PNG of 16 bits as one of 32.
    if not image.mode.startswith("I;16") and (image.mode, image.format) != ("I", "PNG"):
        return None
    return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)


def _plain_jpeg(data: bytes) -> Header | None:
    """The header of a JPEG file that has its end and nothing unusual before its first scan.

    Format: ITU-T T.81, annex B (https://www.w3.org/Graphics/JPEG/itu-t81.pdf).
    """
    if not data.startswith(b"\xff\xd8") or END_OF_JPEG not in data[-TAIL_BYTES:]:
        return None
    frame = orientation = None
    for marker, start, end in _jpeg_segments(data):
        if marker in _FRAMES and frame is None:
            frame = data[start:end]
        elif marker == _APP1 and data.startswith(_EXIF, start) and orientation is None:
            orientation = _exif_orientation(data[start + len(_EXIF) : end])
            if orientation is None:
                return None
        elif marker == _START_OF_SCAN:
            return _frame_header(frame, orientation or UPRIGHT)
        elif marker == _QUANTISATION:
            if (end - start) % 65 or any(number > 3 for number in data[start:end:65]):
                return None
        # Several pictures in one file (MPF) are a format of their own to Pillow.
        elif marker not in _SKIPPED or (marker == _APP2 and data.startswith(b"MPF\0", start)):
            return None
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments of a JPEG, up to one that is not entirely there."""
    position, size = 2, len(data)
    while position + 4 <= size and data[position] == 0xFF:
        start, end = position + 4, position + 2 + (data[position + 2] << 8 | data[position + 3])
        if not start <= end <= size:
            return
        yield data[position + 1], start, end
        position = end


def _frame_header(frame: bytes | None, orientation: int) -> Header | None:
    """Header of a frame of 8 bits and 1, 3 or 4 components."""
    if frame is None or len(frame) < 6:
        return None
    bits, height, width, components = struct.unpack_from(">BHHB", frame)
    usual = bits == 8 and components in _JPEG_MODES and len(frame) == 6 + 3 * components
    if not usual or not 0 < width * height <= _MAX_PLAIN_PIXELS:
        return None
    return Header(width, height, orientation, _JPEG_MODES[components])


def _exif_orientation(tiff: bytes) -> int | None:
    """Orientation in the first directory of an EXIF block; None where it is not plainly there.

    Format: TIFF 6.0, section 2, which EXIF uses.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return None
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    if not 8 <= directory <= len(tiff) - 2:
        return None
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == EXIF_ORIENTATION:
            usual = kind == _SHORT and count == 1 and 1 <= value <= 8
            return value if usual else None
    return None


def _orientation(image: PillowImage.Image) -> int:
    # Asking a PNG without EXIF for it makes Pillow decode the whole image.
    if "exif" not in image.info:
        return UPRIGHT
    value = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def unreadable(name: str, error: Exception) -> str:
    """The sentence about an image that cannot be read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, MemoryError):
        reason = "there is not enough memory for it"
    if isinstance(error, UnidentifiedImageError):  # Pillow says at which address of the memory
        reason = f"it is none of {FORMATS_IN_WORDS}, or damaged"
    return f"{name}: the image cannot be read ({reason}); replace the file or remove the image."


def is_colour_jpeg(data: bytes) -> bool:
    """Whether the bytes are a whole JPEG of three components with nothing unusual about it."""
    header = _plain_jpeg(data)
    return header is not None and header.mode == "RGB"
