"""A store in a folder: a disk, a mounted Drive, /kaggle/working."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from relaydet.errors import RelayError

TEMPORARY = ".part"
STALE_SECONDS = 3600


class LocalStore:
    """Files below one folder, each written whole: temporary file, fsync, rename.

    The folder itself is made by the first write.
    """

    def __init__(self, folder: str | Path) -> None:
        self.root = Path(folder).expanduser().absolute()
        self.location = str(folder)
        there = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not there.is_dir():
            raise RelayError(
                f"STORE {folder}: cannot be a folder, since {there} is a file; choose another."
            )

    def path(self, name: str) -> Path:
        """Where a file of that name is."""
        return self.root / name

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise RelayError(f"{self.path(name)}: cannot be read ({error.strerror}).") from error

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Put a whole file; what was there stays until the new one is safely on the disk.

        A large one may come in pieces, so that it is never in memory as a whole.

        Temporary files that a killed process left in that folder an hour ago or more are removed.
        """
        target = self.path(name)
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(target.parent)
            handle, temporary = tempfile.mkstemp(
                dir=target.parent, prefix=f".{target.name}.", suffix=TEMPORARY
            )
            with os.fdopen(handle, "wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise RelayError(
                f"{target}: cannot be written ({error.strerror}); free space or choose another"
                " STORE."
            ) from error

    @contextmanager
    def folder(self, name: str) -> Iterator[Callable[[str, bytes], None]]:
        """Put a whole folder of files: all of them, or none where the block is left by an error.

        What was in the folder before is replaced.

        Yields:
            A function that adds a file, by its name below the folder, and its bytes.
        """
        target = self.path(name)
        temporary = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            _remove_stale(self.root)
            temporary = Path(
                tempfile.mkdtemp(dir=self.root, prefix=f".{target.name}.", suffix=TEMPORARY)
            )

            def put(file_name: str, data: bytes, folder: Path = temporary) -> None:
                path = folder / file_name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

            yield put
            temporary.chmod(0o755)
            target.parent.mkdir(parents=True, exist_ok=True)
            _exchange(temporary, target)
        except OSError as error:
            raise RelayError(
                f"{target}: cannot be written ({error.strerror}); free space or choose another"
                " STORE."
            ) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def names(self, prefix: str) -> list[str]:
        """Names of the files in a folder (not below it), sorted; temporary files are left out."""
        folder = self.path(prefix)
        if not folder.is_dir():
            return []
        files = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        return sorted(f"{prefix.rstrip('/')}/{p.name}" for p in files)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in a folder (not below it), sorted."""
        folder = self.path(prefix)
        if not folder.is_dir():
            return []
        found = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        return sorted(f"{prefix.rstrip('/')}/{p.name}" for p in found)

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return self.path(name).is_file()

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; none there is fine."""
        try:
            _remove(self.path(name))
        except OSError as error:
            raise RelayError(
                f"{self.path(name)}: cannot be removed ({error.strerror}); check who may write"
                " there, or choose another STORE."
            ) from error

    def describe(self, name: str) -> str:
        """The name as a person would open it."""
        return str(Path(self.location) / name)


def _exchange(new: Path, target: Path) -> None:
    """Put a folder where another may be, which goes; where that fails, it stays."""
    old = new.with_name(f"{new.name}.old{TEMPORARY}")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Killed sessions would otherwise fill the disk with halves of checkpoints."""
    for path in folder.glob(f".*{TEMPORARY}"):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            _remove(path)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; some mounts (Drive's) have no such call."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
