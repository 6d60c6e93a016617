"""What goes wrong with a folder, as a sentence with its remedy."""

from __future__ import annotations

import errno
from pathlib import Path

from relaydet.errors import StoreError
from relaydet.places import DRIVE, MOUNTS

_AWAY = (errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def on_drive(path: str | Path) -> bool:
    """Whether a path lies on a mounted Google Drive."""
    return Path(path).is_relative_to(DRIVE)


def drive_is_mounted() -> bool:
    """Whether Google Drive is: a folder of that name may be left of a mount that is gone."""
    if not MOUNTS.exists():
        return DRIVE.is_mount()  # no Linux: nor is it Colab
    targets = (line.split(" ")[1:2] for line in MOUNTS.read_text(errors="replace").splitlines())
    return ["/content/drive"] in targets


def refuse_unmounted(path: Path) -> None:
    """Refuse a folder on Drive while Drive is not mounted: its files would stay on this machine.

    Raises:
        StoreError: that is so.
    """
    if on_drive(path) and not drive_is_mounted():
        raise StoreError(
            f"{path}: Drive is not mounted; run `from google.colab import drive;"
            f" drive.mount('{DRIVE}')` in a cell of its own first."
        )


def store_trouble(path: Path, what: str, error: OSError) -> StoreError:
    """The error to raise for a path in a store.

    Args:
        path: the file or folder.
        what: what could not be done with it, such as "be written".
        error: what the system said.
    """
    reason = error.strerror or str(error)
    return StoreError(f"{path}: cannot {what} ({reason}); {_remedy(path, error.errno)}.")


def away(path: Path) -> StoreError:
    """The error to raise where the folder of a store is not there any more."""
    return store_trouble(path, "be reached", OSError(errno.ENODEV, "the folder is gone"))


def is_away(error: OSError) -> bool:
    """Return whether an error says that a disk or mount is gone, and may come back."""
    return error.errno in _AWAY


def mount_trouble(folder: Path) -> OSError | None:
    """What the system says of a folder that cannot be reached; None where it can, or is not there.

    A mount whose process has died stays in the list of mounts, and in every new process.
    """
    try:
        folder.stat()
    except OSError as error:
        return error if error.errno in _AWAY else None
    return None


def _remedy(path: Path, number: int | None) -> str:
    drive = on_drive(path)
    if number in _AWAY:
        if drive:
            return (
                "Drive's mount has died: stop this cell if it runs on (training saves first), run"
                " `from google.colab import drive; drive.mount('/content/drive')` in a cell of its"
                " own, and run this cell again"
            )
        return "mount the disk again, or choose another STORE"
    if number in _FULL:
        if drive:
            return "Drive is full: empty its trash, free space, or lower KEEP_GIGABYTES"
        return "the disk is full: free space, lower KEEP_GIGABYTES, or choose another STORE"
    if number == errno.ENAMETOOLONG:
        return "the name is too long: choose a shorter one, or a STORE with a shorter path"
    if number in _FORBIDDEN:
        return "nobody may write there: check the permissions, or choose another STORE"
    return "free space or choose another STORE"
