"""Where a run's files are kept: a small protocol, and the choice of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore
from relaydet.storage.troubles import refuse_unmounted

AUTO = "auto"
GCS = "gs://"


class Store(Protocol):
    """Named byte strings. Names are relative paths with forward slashes.

    All methods raise StoreError where the store cannot do what it is asked at the moment: a disk
    that is full, a mount that went away, a server that does not answer.
    """

    location: str
    """What the user gave: a folder or gs://bucket/prefix."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises RelayError where there is none."""

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Put a whole file: a reader sees the old one or the new one, never a part.

        A large one may come in pieces, so that it is never in memory as a whole.
        """

    def create(self, name: str, data: bytes | Path) -> bool:
        """Put a whole file where none is; of those who try at once, one succeeds.

        Args:
            name: of the file.
            data: its bytes, or the file on this machine that holds them.

        Returns:
            Whether it was put; False where a file of that name is there.
        """

    def differs(self, name: str, original: Path) -> str:
        """What is wrong with a stored file, beside the one it was made from; empty where nothing.

        A folder's file is read back; a bucket's is compared by size and checksum.
        """

    def names(self, prefix: str) -> list[str]:
        """Names of the files in a folder (not below it), sorted."""

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in a folder (not below it), sorted."""

    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, without reading it; None where there is none."""

    def append(self, name: str, before: bytes, data: bytes) -> bool:
        """Put bytes behind those that a file holds, without writing it anew.

        A reader may see a part of what is appended, as may whoever comes after a kill.

        Args:
            name: of the file.
            before: what it holds, as the caller left it there.
            data: what to add.

        Returns:
            Whether it was done; False where the file is not as it was left, or this store cannot.
        """

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; none there is fine."""

    def folder(self, name: str) -> AbstractContextManager[Callable[[str, bytes], None]]:
        """Put a whole folder of files, in place of what was there; see `LocalStore.folder`."""

    def describe(self, name: str) -> str:
        """The name as a person would open it."""

    def place(self, name: str) -> str:
        """The name as a location that can be opened from anywhere on this machine."""


def open_store(location: str | Path = AUTO) -> Store:
    """Open the store at a location; auto is the folder ./work.

    Raises:
        RelayError: the location is neither a folder that can be written to nor in a bucket.
    """
    where = "work" if str(location) == AUTO else str(location)
    if where.startswith(GCS):
        from relaydet.storage.gcs import GcsStore  # takes half a second, and few need it

        return GcsStore(where)
    if "://" in where:
        raise RelayError(
            f"STORE {where}: give a folder (a mounted Drive or bucket is one) or"
            " gs://bucket/prefix."
        )
    store = LocalStore(where)
    refuse_unmounted(store.root)
    return store
