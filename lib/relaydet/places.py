"""Where Colab and Kaggle keep what, and where the system tells about itself.

RELAYDET_ROOT puts another folder in place of /: the tests' way to stand on such a machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from relaydet.errors import RelayError

ROOT_VARIABLE = "RELAYDET_ROOT"
ROOT = Path(os.environ.get(ROOT_VARIABLE) or "/")
"""Where the file system begins."""
DRIVE = ROOT / "content/drive"
"""Where Colab's notebooks mount Google Drive; `google.colab.drive.mount` suggests no other."""
KAGGLE_INPUT = ROOT / "kaggle/input"
"""Where Kaggle mounts data sets and the outputs of earlier versions, to be read only."""
KAGGLE_WORKING = ROOT / "kaggle/working"
"""What Kaggle keeps as the output of a version."""
MOUNTS = ROOT / "proc/mounts"
"""Every mount of this machine, on Linux; see proc(5)."""
UPTIME = ROOT / "proc/uptime"
"""Seconds since the machine was started, on Linux; see proc(5)."""

_left_for: list[Path] = []
"""Where `leave_deleted_folder` went."""


def leave_deleted_folder() -> None:
    """Step out of a current folder that was removed, in which torch's library for matrices dies.

    It has to be called before torch is imported. What is relative is refused from then on
    (`absolute_path`), until somebody changes to another folder.
    """
    try:
        Path.cwd()
    except OSError:
        _left_for[:] = [Path("/")]
        os.chdir(_left_for[0])


def absolute_path(location: str, parameter: str) -> Path:
    """Return a path from the root of the file system; ~ is expanded, links stay.

    Raises:
        RelayError: it starts at a current folder that is gone, or at a home that there is not.
    """
    path = Path(expand_home(location, parameter))
    if path.is_absolute():
        return path
    try:
        gone = [Path.cwd()] == _left_for
    except OSError:
        gone = True
    if gone:
        raise RelayError(
            f"{parameter} {location}: the current folder is gone; change to one that exists (%cd in"
            " a notebook), or give an absolute path."
        )
    return path.absolute()


def home_folder() -> Path | None:
    """Return the user's home folder; None where this machine names none, or no absolute one."""
    try:
        home = Path("~").expanduser()
    except RuntimeError:  # neither HOME nor a line in the list of users
        return None
    return home if os.environ.get("HOME") != "" and home.is_absolute() else None


def expand_home(location: str, parameter: str = "") -> str:
    """Return a location with a leading ~ or ~user replaced by the home folder.

    Raises:
        RelayError: there is no such user, or no home folder; the message begins with the parameter.
    """
    user = location.partition("/")[0]
    if not user.startswith("~"):
        return location
    why = f"there is no user {user[1:]!r}"
    if user == "~":
        why = "this machine names no home folder" if home_folder() is None else ""
    try:
        if user != "~" or not why:
            return str(Path(location).expanduser())
    except RuntimeError:
        pass
    where = f"{parameter} {location}".strip()
    raise RelayError(
        f"{where}: {why}, so {user} cannot be expanded; write the path in full, or ./{location} for"
        " a folder of that name."
    )
