"""Reads the files in environments/ and the list of what Colab has."""

from __future__ import annotations

from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parents[2]
ENVIRONMENTS = TOP / "environments"
COLAB = TOP.parent / "shared" / "facts" / "colab-pip-freeze-2026-08.txt"


def lines_of(file: Path) -> list[str]:
    """What pip is asked for, one by one; of a conda file its part for pip."""
    if file.suffix == ".yml":
        parts = yaml.safe_load(file.read_text())["dependencies"]
        return [line for part in parts if isinstance(part, dict) for line in part["pip"]]
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def requirements_of(file: Path) -> dict[str, Requirement]:
    """The requirements by name, without what is installed from a folder."""
    found = [Requirement(line) for line in lines_of(file) if not line.startswith("-e")]
    return {canonicalize_name(wanted.name): wanted for wanted in found}


def colab_versions() -> dict[str, str]:
    """Version by name of all that Colab's image has."""
    pairs = (line.split("==") for line in COLAB.read_text().split())
    return {canonicalize_name(name): version for name, version in pairs}
