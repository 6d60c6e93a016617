"""pip itself is asked what it would change on Colab, and what conda would have it do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from matrix.pythons import find_pythons
from packaging.utils import canonicalize_name
from requirement_files import COLAB, ENVIRONMENTS, TOP, colab_versions, lines_of

PYTHON = "3.13"
"""Colab's, of 2026-08."""
pytestmark = pytest.mark.slow


def would_install(python: Path, *arguments: str, cwd: Path = TOP) -> set[str]:
    """Names of what pip would install, or replace, if it were not a dry run."""
    command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    done = subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    install = json.loads(done.stdout)["install"]
    return {canonicalize_name(part["metadata"]["name"]) for part in install}


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """A Python that believes it has all that Colab has: metadata alone."""
    if not COLAB.is_file():
        pytest.skip(f"../shared/facts/{COLAB.name} is not there")
    program = find_pythons().get(PYTHON)
    if program is None:
        pytest.skip(f"Python {PYTHON} is not there")
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([program, "-m", "venv", folder], check=True)
    packages = folder / "lib" / f"python{PYTHON}" / "site-packages"
    for name, version in colab_versions().items():
        if name == "pip":
            continue  # the one that is asked
        info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        lines = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "")
        (info / "METADATA").write_text("\n".join(lines))
        (info / "INSTALLER").write_text("pip\n")
    return answered(folder / "bin" / "python")


def answered(python: Path) -> Path:
    """The same, where a package index answers it; skips the test elsewhere."""
    command = [python, "-m", "pip", "install", "--dry-run", "--no-deps", "--retries", "0", "tyro"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no package index answers pip")
    return python


@pytest.mark.parametrize(
    ("file", "brings"),
    [
        pytest.param("environments/colab.txt", {"msgspec", "tyro", "hotcoco", "papermill"}),
        pytest.param("environments/kaggle.txt", {"msgspec", "tyro", "hotcoco"}),
        pytest.param("requirements.txt", {"msgspec", "tyro"}),
    ],
)
def test_installing_on_top_of_colab_changes_none_of_its_versions(colab, file, brings):
    changes = would_install(colab, "-r", file)
    assert changes >= brings
    assert changes & set(colab_versions()) == set()


def test_a_version_that_would_be_moved_is_seen(colab):
    assert would_install(colab, "numpy==2.2.0") == {"numpy"}


def test_conda_finds_the_package_from_the_folder_of_its_file(colab, tmp_path):
    # conda writes these lines to a file, and runs pip where environments/gcp-notebook.yml lies.
    written = tmp_path / "requirements.txt"
    written.write_text("\n".join(lines_of(ENVIRONMENTS / "gcp-notebook.yml")))
    assert would_install(colab, "--no-deps", "-r", str(written), cwd=ENVIRONMENTS) == {"relaydet"}
