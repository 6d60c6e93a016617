"""The one place that knows where image files come from.

`open_images` turns the `images` location of a source into an object that reads by name. A kind of
location is a module here, with a class that has the methods of `Images`; `open_images` chooses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from relaydet.addresses import shown
from relaydet.bars import OpenBar, no_bar
from relaydet.data.images.archive import open_archive
from relaydet.data.images.folder import ImageFolder
from relaydet.data.images.pixels import UPRIGHT, Header, decode_rgb, header_of
from relaydet.data.images.remote import open_remote
from relaydet.data.locations import (
    is_folder,
    is_other_archive,
    is_remote,
    refuse_unknown_scheme,
    split_zip_path,
)
from relaydet.errors import RelayError
from relaydet.storage.zips import is_zip

__all__ = ["UPRIGHT", "Header", "Images", "decode_rgb", "header_of", "open_images", "read_header"]


class Images(Protocol):
    """The image files of one source. Picklable and safe to use from threads and loader workers."""

    def describe(self) -> str:
        """Where the images are, in words for a message."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file; raises RelayError where the name leads elsewhere."""

    def read(self, name: str) -> bytes:
        """The bytes of an image file; raises RelayError where it cannot be read."""

    def fetch(self, names: Sequence[str], bar: OpenBar = no_bar) -> None:
        """Bring files that are far away here, as many as are still missing; else do nothing.

        Files that do not exist there are left out; `exists` tells. Raises RelayError where the
        place cannot be reached.
        """


def open_images(location: str, bar: OpenBar = no_bar) -> Images:
    """Open the place that the images of a source are in.

    Args:
        location: path of a folder or of a zip, or of a folder in a zip; an http(s):// or gs://
            address of the same.
        bar: shows how far the download of a zip is.

    Raises:
        RelayError: there is no such place, or it is of another kind.
    """
    if is_other_archive(location) and not is_folder(location):
        raise RelayError(
            f"{shown(location)}: archives of this kind cannot be read in place; unpack it and"
            " give the folder, or pack it as a zip."
        )
    if is_remote(location):
        return open_remote(location, bar)
    refuse_unknown_scheme(location)
    if is_folder(location):
        return ImageFolder(Path(location))
    zipped = split_zip_path(location)
    if zipped is not None and is_zip(zipped[0]):
        return open_archive(*zipped)
    what = "is a file, not a folder" if zipped is not None else "does not exist"
    raise RelayError(
        f"{location}: the image folder {what}; give the folder or zip that the file names in the"
        " annotations start from."
    )


def read_header(images: Images, name: str) -> Header:
    """Size, orientation and mode of an image file.

    Raises:
        RelayError: the file cannot be read as an image, or the name leads elsewhere.
    """
    return header_of(images.read(name), name)
