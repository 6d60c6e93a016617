"""Where a run's files are kept: a small protocol, and the choice of the store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore

AUTO = "auto"


class Store(Protocol):
    """Named byte strings. Names are relative paths with forward slashes."""

    location: str
    """What the user gave: a folder, later also gs://bucket/prefix."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises RelayError where there is none."""

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Put a whole file: a reader sees the old one or the new one, never a part.

        A large one may come in pieces, so that it is never in memory as a whole.
        """

    def names(self, prefix: str) -> list[str]:
        """Names of the files in a folder (not below it), sorted."""

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in a folder (not below it), sorted."""

    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    def delete(self, name: str) -> None:
        """Remove a file; none there is fine."""

    def describe(self, name: str) -> str:
        """The name as a person would open it."""


def open_store(location: str | Path = AUTO) -> LocalStore:
    """Open the store at a location; auto is the folder ./work.

    Raises:
        RelayError: the location is not a folder that can be written to.
    """
    where = "work" if str(location) == AUTO else str(location)
    if "://" in where:
        raise RelayError(
            f"STORE {where}: this version keeps its files in folders only; give a folder (a"
            " mounted Drive or bucket is one)."
        )
    return LocalStore(where)
