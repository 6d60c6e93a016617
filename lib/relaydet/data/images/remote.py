"""Images at http(s):// and gs:// addresses: copied here first, then read like any others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relaydet.addresses import shown
from relaydet.bars import OpenBar, no_bar
from relaydet.data.images.archive import ImageArchive, open_archive
from relaydet.data.images.folder import ImageFolder
from relaydet.data.locations import (
    address_of,
    server_of,
    split_zip_address,
    zip_copy,
)
from relaydet.errors import RelayError
from relaydet.storage.cache import cache_folder


@dataclass(frozen=True)
class RemoteImages:
    """Single image files below an address; `fetch` copies them here, and the rest reads copies."""

    location: str
    folder: Path
    """Where the copies are kept."""

    @property
    def copies(self) -> ImageFolder:
        """The images that are here."""
        return ImageFolder(self.folder / "files")

    def describe(self) -> str:
        """Where the images are, in words for a message."""
        return f"folder {shown(self.location)}, copied to {self.copies.root}"

    def exists(self, name: str) -> bool:
        """Whether the file is here; after `fetch`, whether there is such a file at all."""
        return self.copies.exists(name)

    def read(self, name: str) -> bytes:
        """The bytes of an image file that was fetched.

        Raises:
            RelayError: it was not, cannot be read, or the name leads out of the folder.
        """
        return self.copies.read(name)

    def fetch(self, names: Sequence[str], bar: OpenBar = no_bar) -> None:
        """Copy the files here that are missing; running again goes on with the rest.

        Raises:
            RelayError: the place cannot be reached or keeps failing, or the disk is full.
        """
        wanted = [file for name in dict.fromkeys(names) for file in self._missing(name)]
        if not wanted:
            return
        from relaydet.storage.http import fetch_files  # takes a while, as in `local_copy`

        label = f"copying images from {shown(self.location)}"
        try:
            fetch_files(server_of(self.location), wanted, self.folder / "parts", label, bar)
        except RelayError as error:
            here = sum(map(self._is_here, set(names)))
            raise RelayError(
                f"{str(error).rstrip('.')}; {here} of {len(set(names))} images are here, and"
                " running again goes on with the rest."
            ) from error

    def _is_here(self, name: str) -> bool:
        try:
            return self.exists(name)
        except RelayError:  # a name that no file can have
            return False

    def _missing(self, name: str) -> list[tuple[str, Path]]:
        """Address and path of a file that is to be copied; none where it is or never can be."""
        try:
            if self.exists(name):
                return []
            return [(address_of(self.location, name), self.copies.path(name))]
        except (RelayError, ValueError):
            return []  # `exists` and `read` say what is wrong with the name


def open_remote(location: str, bar: OpenBar = no_bar) -> RemoteImages | ImageArchive:
    """Open images at an address; a zip is downloaded first.

    Raises:
        RelayError: it is not an address, or a zip there cannot be had.
    """
    inside = split_zip_address(location)
    if inside is None:
        return RemoteImages(location, cache_folder(location))
    address, folder = inside
    index = zip_copy(address, bar)
    return open_archive(index.path, folder, shown(address))
