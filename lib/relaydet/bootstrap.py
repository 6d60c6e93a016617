"""What a notebook does before anything else: install the packages that are missing, and no others.

Only the standard library is used here: nothing else may be there yet. What is installed already
stays as it is, above all the torch, numpy and ipywidgets that Colab and Kaggle bring: pip is given
every installed package as a constraint.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from relaydet.console import say
from relaydet.errors import RelayError
from relaydet.places import KAGGLE_INPUT
from relaydet.runtime.detect import detect

NEEDED = (
    ("torch", "torch>=2.0"),
    ("torchvision", "torchvision>=0.15"),
    ("numpy", "numpy>=1.24"),
    ("PIL", "pillow>=10.1"),
    ("msgspec", "msgspec>=0.19"),
    ("yaml", "pyyaml>=6.0"),
    ("scipy", "scipy>=1.10"),
    ("pycocotools", "pycocotools>=2.0.7"),
    ("safetensors", "safetensors>=0.4"),
    ("matplotlib", "matplotlib>=3.7"),
    ("tqdm", "tqdm>=4.65"),
    ("tyro", "tyro>=0.9"),
    ("requests", "requests>=2.28"),
    ("google.cloud.storage", "google-cloud-storage>=2.10"),
)
"""Import name and requirement of each package: those of requirements.txt."""
_KEPT = ("torch", "torchvision", "numpy")
"""The runtime's own; an old one is for the user to change."""
_DEPTH = 4
"""How many folders below a data set wheels are looked for."""
WHEEL_VARIABLE = "RELAYDET_WHEEL"
"""A wheel of relaydet, or a folder with wheels, that the user names."""
_REMEDY = {
    "kaggle": "turn Internet on under Settings, or attach a data set named relaydet-wheels with"
    " their wheels (Add Input)",
    "colab": "run the cell again; Colab has internet",
}


def install_missing(
    needed: Sequence[tuple[str, str]] = NEEDED, wheels: Path = KAGGLE_INPUT
) -> None:
    """Install what a notebook lacks, and say so; where nothing is missing, nothing is done.

    Args:
        needed: import name and requirement of each package.
        wheels: where wheels may be attached, which are tried before the internet.

    Raises:
        RelayError: a package cannot be had, or the runtime's own torch or numpy is too old.
    """
    wanted = missing(needed)
    if not wanted:
        return
    old = [spec for spec in wanted if _name(spec) in _KEPT and _installed(_name(spec))]
    if old:
        raise RelayError(
            f"{_name(old[0])} {_installed(_name(old[0]))} is too old ({old[0]} is needed); take a"
            " newer image, or an environment of environments/README.md."
        )
    if importlib.util.find_spec("pip") is None:
        raise RelayError(f"Packages are missing and pip is as well; install {' '.join(wanted)}.")
    say(f"installing {', '.join(wanted)} (what is there stays as it is)")
    _install(wanted, wheels)
    importlib.invalidate_caches()
    left = missing(needed)
    if left:
        raise RelayError(f"{', '.join(left)}: installed and not found; restart the runtime.")


def missing(needed: Sequence[tuple[str, str]] = NEEDED) -> list[str]:
    """The requirements that are not met: not installed, or too old."""
    return [spec for module, spec in needed if not _is_there(module) or _is_too_old(spec)]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package that it is part of
        return False


def _is_too_old(spec: str) -> bool:
    """Of a package without metadata nothing is assumed."""
    installed = _installed(_name(spec))
    return bool(installed) and _numbers(installed) < _numbers(spec.partition(">=")[2])


def _name(spec: str) -> str:
    return spec.partition(">=")[0]


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, without what follows it: (2, 11, 0) of 2.11.0+cu128."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def _install(wanted: Sequence[str], wheels: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "installed.txt")
        constraints.write_text("".join(f"{line}\n" for line in _constraints(wanted)))
        command = [*pip, "--constraint", str(constraints), *wanted]
        folders = _folders_with_wheels(wheels)
        if folders:
            print(f"wheels are taken from {', '.join(map(str, folders))}")
        links = [part for place in folders for part in ("-f", str(place))]
        attempts = [[*command, "--no-index", *links]] if links else []
        attempts.append([*command, "--retries", "1", "--timeout", "15"])
        for attempt in attempts:
            done = subprocess.run(attempt, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
    reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    reason = (reasons or done.stderr.splitlines() or ["it does not say why"])[-1]
    raise RelayError(
        f"{', '.join(wanted)}: cannot be installed ({reason.removeprefix('ERROR: ')});"
        f" {_REMEDY.get(detect().name, 'connect to the internet, or install them by hand')}."
    )


def _constraints(wanted: Sequence[str]) -> list[str]:
    """What is installed, pinned; but for what is wanted."""
    free = {_name(spec).lower() for spec in wanted}
    pinned: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version and name.lower() not in free:
            pinned.setdefault(name, f"{name}=={version}")  # the first on the path is imported
    return sorted(pinned.values())


def _folders_with_wheels(top: Path) -> list[Path]:
    """Folders with wheels of ours: what else is attached may hold anything under any name.

    Those are the data set that this package was taken from; where it comes from elsewhere, data
    sets named relaydet...; and where RELAYDET_WHEEL says.
    """
    here = Path(__file__)
    sets = [*top.glob("*"), *top.glob("datasets/*/*")]
    ours = [folder for folder in sets if folder.name.startswith("relaydet")]
    own = [folder for folder in ours if here.is_relative_to(folder)]
    places = own or ours
    named = os.environ.get(WHEEL_VARIABLE)
    if named:
        wheel = Path(named)
        places.append(wheel.parent if wheel.suffix == ".whl" else wheel)
    found = (place.glob("*/" * depth + "*.whl") for place in places for depth in range(_DEPTH + 1))
    return sorted({wheel.parent for wheels in found for wheel in wheels})
