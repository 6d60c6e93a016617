"""Where copies of files from afar are kept on this machine, and who may write them.

The root is the environment variable RELAYDET_CACHE, else ~/.cache/relaydet; each place that files
come from has a folder in it. Whatever lies there may be deleted: it is brought here again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relaydet.addresses import shown
from relaydet.errors import RelayError

CACHE_VARIABLE = "RELAYDET_CACHE"
READABLE_CHARACTERS = 60
STALE_SECONDS = 24 * 3600
# The disk is full, the quota used up, or the place not writable: no other file would fare better.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def cache_root() -> Path:
    """Folder that all copies lie below; it need not exist yet."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/relaydet").expanduser().absolute()


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
