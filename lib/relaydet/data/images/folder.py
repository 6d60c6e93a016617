"""Images in a folder, and the rule that an image name stays inside its place."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relaydet.bars import OpenBar, no_bar
from relaydet.data.images.pixels import unreadable
from relaydet.errors import RelayError
from relaydet.storage.limits import IMAGE


@dataclass(frozen=True)
class ImageFolder:
    """Images in a folder, read by their name relative to it."""

    root: Path

    def describe(self) -> str:
        """Where the images are, in words for a message."""
        return f"folder {self.root}"

    def path(self, name: str) -> Path:
        """Path of an image; the file need not exist.

        Raises:
            RelayError: the name is empty, absolute or leads out of the folder.
        """
        check_inside(str(self.root), name)
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
            path = self.path(name)
            status = path.stat()
            # A pipe or a device may wait, or go on, for ever.
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
            if status.st_size > IMAGE.most:
                raise ValueError(f"it has {status.st_size} bytes; the limit is {IMAGE.most}")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise RelayError(unreadable(str(self.root / name), error)) from error

    def fetch(self, names: Sequence[str], bar: OpenBar = no_bar) -> None:
        """Nothing to do: the files are here."""


def check_inside(where: str, name: str) -> None:
    """Refuse an image name that could lead out of its place.

    Raises:
        RelayError: the name is empty, absolute, or has '..' among its parts.
    """
    # Backslashes too: a file written on Windows must not escape when it is read there.
    parts = re.split(r"[/\\]", name)
    if ".." in parts or "\0" in name or not name.strip("/\\.") or Path(name).is_absolute():
        raise RelayError(
            f"{where}: the image name {name!r} does not stay inside the folder; image"
            " names must be relative paths without '..'."
        )
