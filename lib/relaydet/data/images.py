"""The one place that knows where image bytes come from, and how they become pixels.

`open_images` turns the `images` location of a source into an object that reads by name. A folder is
the only kind so far; another kind is another small class with the same methods, chosen there.

EXIF orientation is never applied, neither to sizes nor to pixels: COCO's boxes are drawn on the
pixels as stored. `Header.orientation` tells where a viewer would turn the image.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from relaydet.errors import RelayError

EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
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


@dataclass(frozen=True)
class ImageFolder:
    """Images in a folder, read by their name relative to it. Picklable: loader workers carry it."""

    root: Path

    def describe(self) -> str:
        """Where the images are, in words for a message."""
        return f"folder {self.root}"

    def path(self, name: str) -> Path:
        """Path of an image; the file need not exist.

        Raises:
            RelayError: the name is empty, absolute or leads out of the folder.
        """
        # Backslashes too: a file written on Windows must not escape when it is read there.
        parts = re.split(r"[/\\]", name)
        if ".." in parts or "\0" in name or not name.strip("/\\.") or Path(name).is_absolute():
            raise RelayError(
                f"{self.root}: the image name {name!r} does not stay inside the folder; image"
                " names must be relative paths without '..'."
            )
        return self.root / name

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        try:
            return self.path(name).is_file()
        except (OSError, ValueError):  # a name that the file system cannot even hold
            return False

    def read(self, name: str) -> bytes:
        """The bytes of an image file.

        Raises:
            RelayError: the file cannot be read, or the name leads out of the folder.
        """
        try:
            return self.path(name).read_bytes()
        except (OSError, ValueError) as error:
            raise RelayError(_unreadable(str(self.root / name), error)) from error

    def header(self, name: str) -> Header:
        """Size and orientation of an image file, without decoding it unless it seems cut off.

        Raises:
            RelayError: the file cannot be read as an image, or the name leads out of the folder.
        """
        path = self.path(name)
        try:
            with PillowImage.open(path) as image:
                if image.format == "JPEG" and not _ends_whole(path):
                    image.load()
                return Header(image.width, image.height, _orientation(image))
        except Exception as error:  # Pillow's format plugins raise whatever a broken file provokes
            raise RelayError(_unreadable(str(path), error)) from error

    def size(self, name: str) -> tuple[int, int]:
        """Width and height in pixels as stored (EXIF orientation is not applied).

        Raises:
            RelayError: the file cannot be read as an image, or the name leads out of the folder.
        """
        header = self.header(name)
        return header.width, header.height


def open_images(location: str) -> ImageFolder:
    """Open the place that the images of a source are in.

    Args:
        location: path of a folder.

    Raises:
        RelayError: it is not a folder that exists.
    """
    root = Path(location)
    if root.is_dir():
        return ImageFolder(root)
    what = "is a file, not a folder" if root.is_file() else "does not exist"
    raise RelayError(
        f"{location}: the image folder {what}; give the folder that the file names in the"
        " annotations start from."
    )


def _ends_whole(path: Path) -> bool:
    """Whether a JPEG's end marker is where it should be; a half-copied file has none there."""
    with path.open("rb") as file:
        file.seek(-min(TAIL_BYTES, path.stat().st_size), os.SEEK_END)
        return b"\xff\xd9" in file.read()


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
        raise RelayError(_unreadable(name, error)) from error


def _orientation(image: PillowImage.Image) -> int:
    # Asking a PNG without EXIF for it makes Pillow decode the whole image.
    if "exif" not in image.info:
        return UPRIGHT
    value = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def _unreadable(name: str, error: Exception) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{name}: the image cannot be read ({reason}); replace the file or remove the image."
