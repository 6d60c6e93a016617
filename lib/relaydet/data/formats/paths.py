"""Paths from a user or a file: any text, which the file system may not be able to hold."""

from __future__ import annotations

from pathlib import Path

from relaydet.addresses import scheme_of, shown
from relaydet.config import SourceConfig
from relaydet.errors import RelayError


def is_dir(path: Path) -> bool:
    """Whether there is such a folder; a name that no file can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def path_of(source: SourceConfig) -> Path:
    """Path of a source's annotations.

    Raises:
        RelayError: it is empty, which would mean the current folder, or an address.
    """
    if not source.annotations.strip():
        raise RelayError(
            f"source {source.name}: its annotations are empty; give the path of its annotations."
        )
    if scheme_of(source.annotations) and not Path(source.annotations).exists():
        raise RelayError(
            f"{shown(source.annotations)}: annotations of the format {source.format} are not read"
            f" from an address; download them and give source {source.name} their path."
        )
    return Path(source.annotations)
