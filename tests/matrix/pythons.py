"""Finds the Pythons of this machine: on PATH, and where pyenv puts them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from matrix.generations import PYTHONS

PYENV = Path.home() / ".pyenv" / "versions"


def find_pythons() -> dict[str, str]:
    """Path of the program by version, such as 3.11; only of those that start and are that one."""
    return {version: path for version in PYTHONS if (path := _find(version))}


def choose(wanted: Sequence[str], found: dict[str, str]) -> str | None:
    """The first version wanted that is there."""
    return next((version for version in wanted if version in found), None)


def _find(version: str) -> str | None:
    # pyenv's own first: its stand-ins on PATH fail where a version is there and not chosen.
    places = [str(path) for path in sorted(PYENV.glob(f"{version}.*/bin/python{version}"))]
    places += [path for path in [shutil.which(f"python{version}")] if path]
    return next((path for path in places if _version(path) == version), None)


def _version(path: str) -> str:
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()
