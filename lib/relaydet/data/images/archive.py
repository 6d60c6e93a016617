"""Images in a zip, read in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relaydet.bars import OpenBar, no_bar
from relaydet.data.images.folder import check_inside
from relaydet.errors import RelayError
from relaydet.storage.zips import find_name, folders_to_try, open_zip, read_zipped


@dataclass(frozen=True)
class ImageArchive:
    """Images in a zip, or in a folder of it.

    Only plain values, so that it is cheap to send to a loader worker; the list of files is read
    there once (`storage.zips`). No file stays open, so nothing is shared over a fork.
    """

    path: Path
    folders: tuple[str, ...]
    """Where in the zip to look for a name, in this order; each empty or ending in a slash."""
    origin: str = ""
    """Address that the zip came from."""

    def describe(self) -> str:
        """Where the images are, in words for a message."""
        inside = f", folder {self.folders[0]}" if self.folders[0] else ""
        if len(self.folders) > 1:
            inside += f" (all of it is in {self.folders[-1]}: names may also start from there)"
        return f"zip {self.origin or self.path}{inside}"

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        check_inside(self.describe(), name)
        return find_name(open_zip(self.path), name, self.folders) is not None

    def read(self, name: str) -> bytes:
        """The bytes of an image file.

        Raises:
            RelayError: there is no such file, it is damaged, or the name leads out of the folder.
        """
        check_inside(self.describe(), name)
        index = open_zip(self.path)
        found = find_name(index, name, self.folders)
        if found is None:
            raise RelayError(
                f"{name}: the image cannot be read (no such file in the {self.describe()});"
                " remove the image, or give the folder that its name starts from."
            )
        return read_zipped(index, found)

    def fetch(self, names: Sequence[str], bar: OpenBar = no_bar) -> None:
        """Nothing to do: the zip is here."""


def open_archive(path: Path, folder: str, origin: str = "") -> ImageArchive:
    """Open a folder of a zip.

    Args:
        path: the zip.
        folder: path of the folder in it; empty for all of it.
        origin: address that the zip came from, for messages.

    Raises:
        RelayError: it is not a whole zip, or has no file in that folder.
    """
    return ImageArchive(path, folders_to_try(open_zip(path), folder), origin)
