"""A store that only the holder of a lease can write to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from relaydet.storage.lease import Lease
from relaydet.storage.store import Store


class Fenced:
    """A store that is written to only while a lease is held; has the methods of `Store`."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self.location = store.location
        self._store = store
        self._lease = lease

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        return self._store.read(name)

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """See `Store.write`; raises LeaseLostError as well."""
        self._lease.confirm()
        self._store.write(name, data)

    def create(self, name: str, data: bytes | Path) -> bool:
        """See `Store.create`; raises LeaseLostError as well."""
        self._lease.confirm()
        return self._store.create(name, data)

    def differs(self, name: str, original: Path) -> str:
        """See `Store.differs`."""
        return self._store.differs(name, original)

    def names(self, prefix: str) -> list[str]:
        """See `Store.names`."""
        return self._store.names(prefix)

    def folders(self, prefix: str) -> list[str]:
        """See `Store.folders`."""
        return self._store.folders(prefix)

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return self._store.exists(name)

    def size(self, name: str) -> int | None:
        """See `Store.size`."""
        return self._store.size(name)

    def append(self, name: str, before: bytes, data: bytes) -> bool:
        """See `Store.append`; raises LeaseLostError as well."""
        self._lease.confirm()
        return self._store.append(name, before, data)

    def delete(self, name: str) -> None:
        """See `Store.delete`; raises LeaseLostError as well."""
        self._lease.confirm()
        self._store.delete(name)

    def folder(self, name: str) -> AbstractContextManager[Callable[[str, bytes], None]]:
        """See `Store.folder`; raises LeaseLostError as well."""
        self._lease.confirm()
        return self._store.folder(name)

    def describe(self, name: str) -> str:
        """See `Store.describe`."""
        return self._store.describe(name)

    def place(self, name: str) -> str:
        """See `Store.place`."""
        return self._store.place(name)
