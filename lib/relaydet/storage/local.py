"""A store in a folder: a disk, a mounted Drive, /kaggle/working."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from relaydet.errors import RelayError
from relaydet.places import absolute_path
from relaydet.storage.troubles import away, on_drive, store_trouble

TEMPORARY = ".part"
STALE_SECONDS = 3600
BLOCK = 1 << 20
APPEND_LOOK = 4096
"""Bytes at the end of a file that are compared before something is appended."""
LONGEST_SHOWN = 80
"""Characters of a path that is too long to be one, in a message."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
# Where the mount is at fault for another reason, the way without links fails as well and says so.
_NO_LINKS = (
    *(errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK),
    *(errno.EXDEV, errno.EINVAL),
)
_NO_SUCH_CALL = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NO_MODES = (*_NO_SUCH_CALL, errno.EPERM, errno.EACCES)


class LocalStore:
    """Files below one folder, each written whole: temporary file, fsync, rename.

    The folder itself is made by the first write. If it goes away later, as a mounted Drive may, it
    is not made again: files would then land on this machine's own disk, below the mount.
    """

    def __init__(self, folder: str | Path, parameter: str = "STORE") -> None:
        """Look at the folder; nothing is made yet.

        Args:
            folder: its path; ~ is expanded, and one that is relative starts at the current folder.
            parameter: what it was given by, which a message begins with.

        Raises:
            RelayError: it cannot be a folder.
            StoreError: it cannot be reached at the moment.
        """
        self.root = absolute_path(str(folder), parameter)
        self.location = str(folder)
        try:
            there = next(path for path in (self.root, *self.root.parents) if _mode(path))
            is_folder = stat.S_ISDIR(_mode(there))
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                why = str(error.strerror).lower()
                raise RelayError(
                    f"{parameter} {_short(folder)}: cannot be a folder ({why}); choose another."
                ) from error
            raise store_trouble(self.root, "be reached", error) from error
        if not is_folder:
            raise RelayError(
                f"{parameter} {folder}: cannot be a folder, since {there} is a file; choose"
                " another."
            )
        self._seen = there == self.root

    def is_there(self) -> bool:
        """Whether the folder is, or was when it was opened."""
        return self._seen

    def path(self, name: str) -> Path:
        """Where a file of that name is; raises RelayError for one outside the store."""
        return self.root / inside(name)

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        try:
            self._look()
            return self.path(name).read_bytes()
        except OSError as error:
            if error.errno in (*_ABSENT, errno.EISDIR):
                reason = f"{self.path(name)}: cannot be read ({error.strerror})."
                raise RelayError(reason) from error
            raise store_trouble(self.path(name), "be read", error) from error

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Put a whole file; what was there stays until the new one is safely on the disk.

        A large one may come in pieces, so that it is never in memory as a whole.

        Temporary files that a killed process left in that folder an hour ago or more are removed.
        """
        target = self.path(name)
        with self._whole(target, [data] if isinstance(data, bytes) else data) as temporary:
            _replace(temporary, target)

    def create(self, name: str, data: bytes | Path) -> bool:
        """Put a whole file where none is; of those who try at once, one succeeds.

        On a mounted Drive only those on one machine are kept apart: another machine sees the file
        when Drive has uploaded it and told so, half a minute later or more.
        """
        target = self.path(name)
        if self.exists(name):
            return False
        pieces = [data] if isinstance(data, bytes) else _blocks(data)
        with self._whole(target, pieces) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _create_without_links(temporary, target)
        return True

    def differs(self, name: str, original: Path) -> str:
        """What is wrong with a stored file, beside the one it was made from; empty where nothing.

        On a mounted Drive this reads what Drive has taken, which it uploads later.
        """
        try:
            self._look()
            size, wanted = self.path(name).stat().st_size, original.stat().st_size
            if size != wanted:
                return f"it has {size} of {wanted} bytes"
            with self.path(name).open("rb") as stored:
                same = all(stored.read(BLOCK) == block for block in _blocks(original))
            return "" if same else "its bytes are others"
        except FileNotFoundError:
            return "it is not there"
        except OSError as error:
            raise store_trouble(self.path(name), "be read", error) from error

    @contextmanager
    def _whole(self, target: Path, pieces: Iterable[bytes | memoryview]) -> Iterator[Path]:
        """A temporary file beside a target that holds all the pieces, to be renamed or linked."""
        temporary = None
        try:
            self._look()
            target.parent.mkdir(parents=True, exist_ok=True)
            self._seen = True
            _remove_stale(target.parent)
            handle, path = tempfile.mkstemp(
                dir=target.parent, prefix=f".{target.name}.", suffix=TEMPORARY
            )
            temporary = Path(path)
            with os.fdopen(handle, "wb") as file:
                file.writelines(pieces)
                file.flush()
                _sync(file.fileno())
            _let_others_read(temporary, 0o644)
            yield temporary
            _sync_folder(target.parent)
        except OSError as error:
            raise store_trouble(target, "be written", error) from error
        finally:
            if temporary is not None:
                _forget(temporary)

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
            self._look()
            self.root.mkdir(parents=True, exist_ok=True)
            self._seen = True
            _remove_stale(self.root)
            temporary = Path(
                tempfile.mkdtemp(dir=self.root, prefix=f".{target.name}.", suffix=TEMPORARY)
            )

            def put(file_name: str, data: bytes, folder: Path = temporary) -> None:
                path = folder / inside(file_name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

            yield put
            _let_others_read(temporary, 0o755)
            target.parent.mkdir(parents=True, exist_ok=True)
            _exchange(temporary, target)
        except OSError as error:
            raise store_trouble(target, "be written", error) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def names(self, prefix: str) -> list[str]:
        """Names of the files in a folder (not below it), sorted; temporary files are left out."""
        return self._entries(prefix, stat.S_ISREG)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in a folder (not below it), sorted."""
        return self._entries(prefix, stat.S_ISDIR)

    def _entries(self, prefix: str, is_wanted: Callable[[int], bool]) -> list[str]:
        """Not by `Path.is_dir`: to it, a mount that has died is a folder with nothing in it."""
        folder = self.path(prefix)
        try:
            self._look()
            entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
            found = [path.name for path in entries if is_wanted(_mode(path))]
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            raise store_trouble(folder, "be listed", error) from error
        return sorted(f"{prefix.rstrip('/')}/{entry}" for entry in found)

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        try:
            self._look()
            return stat.S_ISREG(_mode(self.path(name)))
        except OSError as error:
            raise store_trouble(self.path(name), "be reached", error) from error

    def size(self, name: str) -> int | None:
        """Bytes of a file, without reading it; None where there is none."""
        try:
            self._look()
            found = self.path(name).stat()
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise store_trouble(self.path(name), "be reached", error) from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def append(self, name: str, before: bytes, data: bytes) -> bool:
        """Put bytes behind those that a file holds; False where it is not as it was left.

        Looked at are its length, what an earlier try may have left of the same bytes, and the last
        of those before: another session that took the run over has written the file anew. On a
        mounted Drive nothing is appended, which uploads the whole file either way.
        """
        path = self.path(name)
        try:
            self._look()
            if on_drive(path):
                return False
            with path.open("r+b") as file:
                size, kept = os.fstat(file.fileno()).st_size, min(len(before), APPEND_LOOK)
                file.seek(max(0, len(before) - kept))
                left = file.read(kept + len(data) + 1)
                if size < len(before) or not (before[len(before) - kept :] + data).startswith(left):
                    return False
                file.seek(len(before))
                file.write(data)
                file.flush()
                _sync(file.fileno())
        except OSError as error:
            if error.errno in (*_ABSENT, errno.EISDIR):
                return False
            raise store_trouble(path, "be written", error) from error
        return True

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; none there is fine."""
        path = self.path(name)
        try:
            self._look()
            if on_drive(path):
                _empty(path)
            _remove(path)
        except OSError as error:
            raise store_trouble(path, "be removed", error) from error

    def place(self, name: str) -> str:
        """The name as a location that can be opened from anywhere on this machine."""
        return str(self.path(name))

    def _look(self) -> None:
        """Notice that the folder, once seen, is not there any more."""
        seen = self._seen  # before the look: another thread may make the folder meanwhile
        there = stat.S_ISDIR(_mode(self.root))
        if seen and not there:
            raise away(self.root)
        self._seen = self._seen or there

    def describe(self, name: str) -> str:
        """The name as a person would open it."""
        return str(Path(self.location) / name)


def inside(name: str) -> str:
    """A name in a store as it is; raises RelayError where it leads out of the store.

    What users and files say is validated where it comes in. This is the last look, so that nothing
    is ever written elsewhere.
    """
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise RelayError(
            f"{name!r}: leads out of the store, and nothing is read or written there; give a name"
            " without / and .. in it."
        )
    return name


def _short(text: object) -> str:
    text = str(text)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def missing_folders(folder: Path) -> list[Path]:
    """Return the folder and those above it that are not there, the deepest first."""
    chain = (folder, *folder.parents)
    return [path for path in chain if not os.path.lexists(path)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that somebody made to look whether it can be done, the deepest first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # never made, or another session has put something there meanwhile
            return


def _mode(path: Path) -> int:
    """Kind and permissions; 0 where there is nothing. Any other trouble is raised."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise


def _let_others_read(path: Path, mode: int) -> None:
    """Mkstemp lets the owner alone read; mounts that know no modes (CIFS, vfat, S3) refuse that."""
    try:
        path.chmod(mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def _sync(handle: int) -> None:
    """Wait until a file is on the disk, where the mount knows such a call."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise


def _replace(new: Path, target: Path) -> None:
    """Put a file where another may be; some mounts rename only to where nothing is."""
    try:
        new.replace(target)
    except FileExistsError:
        if not target.is_file():
            raise
        _exchange(new, target)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(BLOCK), b"")


def _create_without_links(temporary: Path, target: Path) -> bool:
    """Where a mount knows no hard links: exclusive still, but a kill may leave half a file."""
    try:
        with target.open("xb") as file:
            file.writelines(_blocks(temporary))
            file.flush()
            _sync(file.fileno())
    except FileExistsError:
        return False
    return True


def _forget(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:  # the mount went away under it; `_remove_stale` finds it another day
        return


def _empty(path: Path) -> None:
    """Drive moves what is deleted into its trash, where it takes its space for 30 days more.

    Links are left alone: to Drive a link is a shortcut, and what it leads to is not deleted.
    """
    for file in path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]:
        if file.is_file() and not file.is_symlink():
            os.truncate(file, 0)


def _exchange(new: Path, target: Path) -> None:
    """Put a file or folder where another may be, which goes; where that fails, it stays."""
    old = new.with_name(f"{new.name}.old{TEMPORARY}")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    with suppress(OSError):  # the new one is in place; `_remove_stale` finds the rest another day
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Killed sessions would otherwise fill the disk with halves of checkpoints.

    What cannot be listed or removed (another session was faster, or it is another user's) is no
    reason not to write.
    """
    with suppress(OSError):
        for path in folder.glob(f".*{TEMPORARY}"):
            with suppress(OSError):
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
