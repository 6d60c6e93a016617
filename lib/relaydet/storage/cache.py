"""Where copies of files from afar are kept on this machine, and who may write them.

The root is the environment variable RELAYDET_CACHE, else ~/.cache/relaydet, else (where there is no
home, or none that can be written to: containers) a folder of this user's own among the temporary
files; each place that files come from has a folder in it. What was downloaded may be deleted: it is
brought here again. Checkpoints that are not in the store yet are kept here as well.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from relaydet.addresses import shown
from relaydet.errors import RelayError
from relaydet.places import absolute_path, home_folder

CACHE_VARIABLE = "RELAYDET_CACHE"
READABLE_CHARACTERS = 60
STALE_SECONDS = 24 * 3600
# The disk is full, the quota used up, or the place not writable: no other file would fare better.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


_looked_at: dict[str, str] = {}
"""Folders that it was tried to write to: why that cannot be done, empty where it can."""
_told: set[str] = set()
"""What the user was told of the folder."""


def cache_root() -> Path:
    """Return the folder that all copies lie below; it need not exist yet.

    Raises:
        RelayError: neither the home folder nor that of temporary files can be used.
    """
    return _named_root() or _home_root() or _temporary_root()


def check_cache() -> Path:
    """Return `cache_root`, after a look whether it can be written to; nothing is left behind.

    Raises:
        RelayError: it cannot.
    """
    root = cache_root()
    trouble = _why_not_writable(root)
    if trouble:
        raise RelayError(
            f"{CACHE_VARIABLE} {root}: cannot be written to ({trouble}); set it to a folder on a"
            " disk of this machine that can, or unset it."
        )
    return root


def cache_note() -> str:
    """Return what to say of a cache folder that is not the usual one; empty where it is.

    Raises:
        RelayError: there is none that can be used.
    """
    if _named_root() or _home_root():
        return ""
    return f"{_temporary_root()} ({_why_not_home()}; {CACHE_VARIABLE} names another folder)"


def tell_cache(say: Callable[[str], None]) -> None:
    """Say, once in a process, where copies are kept if not in the usual folder.

    Raises:
        RelayError: there is no folder that can be used.
    """
    note = cache_note()
    if note and note not in _told:
        _told.add(note)
        say(f"cache: {note}")


def _named_root() -> Path | None:
    named = os.environ.get(CACHE_VARIABLE)
    return absolute_path(named, CACHE_VARIABLE) if named else None


def _home_root() -> Path | None:
    """The usual folder, where it can be written to."""
    home = home_folder()
    root = home / ".cache/relaydet" if home else None
    return root if root and not _known_trouble(root) else None


def _why_not_home() -> str:
    home = home_folder()
    if not home:
        return "this machine names no home folder"
    root = home / ".cache/relaydet"
    return f"{root} cannot be written to: {_known_trouble(root)}"


def _known_trouble(root: Path) -> str:
    """As `_why_not_writable`; looked at once a process, as every download asks for it."""
    if str(root) not in _looked_at:
        _looked_at[str(root)] = _why_not_writable(root)
    return _looked_at[str(root)]


def _why_not_writable(folder: Path) -> str:
    """What the system says to a new file in a folder; empty where it lets us write.

    Permissions alone do not tell: a disk may be mounted to be read only, or its quota used up. Of
    one that is not there yet, the next one above that is: it is not made for a look, as another
    process may be about to use it.
    """
    try:
        with tempfile.TemporaryFile(dir=_nearest(folder)) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _nearest(folder: Path) -> Path:
    """The folder, or the next one above it that is there."""
    for path in (folder, *folder.parents):
        try:
            path.stat()
            return path
        except FileNotFoundError:
            if path.is_symlink():
                raise OSError(errno.ENOENT, f"{path} is a link that leads nowhere") from None
    return folder


def _temporary_root() -> Path:
    """A folder that nobody else can write to or has put there, since /tmp is everybody's."""
    remedy = f"set {CACHE_VARIABLE} to a folder that can be written to"
    try:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        root = Path(tempfile.gettempdir(), f"relaydet-{user}")
        with suppress(FileExistsError):
            root.mkdir(mode=0o700)
        found = root.lstat()
    except OSError as error:
        raise RelayError(
            f"{_why_not_home()}, and no folder for temporary files can be used"
            f" ({error.strerror or error}); {remedy}."
        ) from error
    foreign = hasattr(os, "getuid") and found.st_uid != os.getuid()
    if not stat.S_ISDIR(found.st_mode) or foreign or found.st_mode & 0o022:
        raise RelayError(
            f"{root}: is no folder of yours alone, so what is kept there cannot be trusted;"
            f" {remedy}."
        )
    return root


def cache_folder(location: str) -> Path:
    """Folder of the copies from one place: its readable name and a short hash of all of it.

    Args:
        location: an http(s) or gs address; what may be secret in it enters the hash only.
    """
    public = shown(location).partition("://")[2]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", public)
    digest = hashlib.sha256(location.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return cache_root() / f"{readable[-READABLE_CHARACTERS:].strip('-.')}-{digest}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one, among threads and processes, to write a file; wait while another does.

    Windows has no such lock: there, two processes must not download the same file at once.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise RelayError(
                f"{path.parent}: files cannot be locked there ({error.strerror}); set"
                f" {CACHE_VARIABLE} to a folder on a disk of this machine."
            ) from error
        yield


@contextmanager
def disk_trouble(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with the disk into the sentence that a user can act on."""
    try:
        yield
    except OSError as error:
        raise RelayError(
            f"{folder}: cannot be written ({error.strerror or error}); free space, or set"
            f" {CACHE_VARIABLE} to a folder on a larger disk; running again goes on from here."
        ) from error


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Say before a long download that it cannot fit.

    Args:
        folder: an existing folder on the disk in question.
        needed: bytes still to come.

    Raises:
        RelayError: there is less space.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RelayError(
            f"{folder}: the download needs another {needed / 1e9:.2f} GB, but the disk has"
            f" {free / 1e9:.2f} GB free; free space, or set {CACHE_VARIABLE} to a folder on a"
            " larger disk."
        )


def remove_stale(folder: Path) -> None:
    """Remove the parts of files that a process left behind when it was killed days ago."""
    for path in folder.glob("*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
