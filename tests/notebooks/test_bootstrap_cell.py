"""The first cell of every notebook finds the package, wherever it is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
BARE = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
"""A Python in which relaydet is not installed."""
PACKAGE = {
    "__init__.py": "",
    "bootstrap.py": "def install_missing():\n    print('found', __file__)\n",
    "notebook.py": "",
}


def cells() -> dict[str, str]:
    """The first cell of code of each notebook, by its name."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        found[path.stem] = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return found


def named_in_cell(line: str) -> tuple[str, str]:
    """REPOSITORY and TAG, as the cell has them."""
    names: dict[str, str] = {}
    exec(line, names)
    return names["REPOSITORY"], names["TAG"]


def put_package(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)


def put_wheel(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "relaydet-0.1.0-py3-none-any.whl", "w") as wheel:
        for name, text in PACKAGE.items():
            wheel.writestr(f"relaydet/{name}", text)


def run(folder: Path, cwd: str = "notebooks", path: str = "", **variables: str):
    """Run the cell where the file system begins at `folder`."""
    if not BARE.exists():
        pytest.skip(f"there is no {BARE.name} without relaydet")
    (folder / cwd).mkdir(parents=True, exist_ok=True)
    cell = next(iter(cells().values()))
    for top in ("/kaggle/input", "/content/drive"):
        assert f'"{top}' in cell
        cell = cell.replace(f'"{top}', f'"{folder}{top}')
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "PYTHONPATH": path,
        **variables,
    }
    return subprocess.run(
        [BARE, "-c", cell],
        cwd=folder / cwd,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_it_is_the_same_in_every_notebook_and_short():
    assert len(set(cells().values())) == 1
    assert len(next(iter(cells().values())).splitlines()) <= 22


@pytest.mark.parametrize(
    ("place", "put"),
    [
        pytest.param("lib/relaydet", put_package, id="beside the notebook"),
        pytest.param("notebooks/lib/relaydet", put_package, id="below it: papermill from the top"),
        pytest.param("kaggle/input/relaydet", put_package, id="data set that is the package"),
        pytest.param("kaggle/input/code/lib/relaydet", put_package, id="repository as a data set"),
        pytest.param("kaggle/input/datasets/ada/x/relaydet", put_package, id="Kaggle's new layout"),
        pytest.param("kaggle/input/wheels", put_wheel, id="wheel as a data set"),
        pytest.param("kaggle/input/datasets/ada/wheels", put_wheel, id="wheel, new layout"),
        pytest.param("content/drive/MyDrive/relaydet", put_wheel, id="wheel on Drive"),
        pytest.param(
            "content/drive/MyDrive/relaydet/lib/relaydet", put_package, id="repository on Drive"
        ),
    ],
)
def test_it_is_found_where_it_lies(tmp_path, place, put):
    put(tmp_path / place)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("found "), done.stdout
    assert Path(done.stdout.split()[1]).resolve().is_relative_to((tmp_path / place).resolve())


def test_an_installed_one_goes_first(tmp_path):
    put_package(tmp_path / "site/relaydet")
    put_package(tmp_path / "lib/relaydet")
    done = run(tmp_path, path=str(tmp_path / "site"))
    assert done.stdout == f"found {tmp_path}/site/relaydet/bootstrap.py\n"


@pytest.fixture
def repository(tmp_path):
    """A bare repository at the tag, and the variables that make git take it for the real one."""
    address, tag = named_in_cell(
        next(
            line for line in next(iter(cells().values())).splitlines() if "REPOSITORY, TAG" in line
        )
    )
    put_package(tmp_path / "made/lib/relaydet")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x"], ["tag", tag]):
        subprocess.run(["git", *command], cwd=tmp_path / "made", check=True)
    subprocess.run(["git", "clone", "-q", "--bare", "made", "bare.git"], cwd=tmp_path, check=True)
    variables = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/bare.git.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
    }
    return tag, variables


def test_else_it_is_cloned_at_the_tag_and_kept(tmp_path, repository):
    tag, variables = repository
    done = run(tmp_path, **variables)
    clone = tmp_path / "home/.cache/relaydet/source" / tag / "lib/relaydet/bootstrap.py"
    assert done.stdout == f"found {clone}\n", done.stderr
    again = run(tmp_path, **{**variables, "GIT_CONFIG_KEY_0": "url.file:///nowhere.insteadOf"})
    assert again.stdout == f"found {clone}\n"


def test_without_internet_it_says_what_to_do(tmp_path, repository):
    _, variables = repository
    gone = {**variables, "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/nowhere.insteadOf"}
    done = run(tmp_path, **gone)
    assert done.returncode == 1
    assert "No relaydet: turn internet on, or attach a wheel from https://" in done.stderr


@pytest.mark.slow
def test_the_wheel_that_make_wheel_builds_works_as_it_lies_there(tmp_path):
    top = NOTEBOOKS.parent
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(top)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr.splitlines()[-1:]}")
    (wheel,) = tmp_path.glob("relaydet-*.whl")
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
        "import relaydet.cli, relaydet.jobs.train, relaydet.notebook\n"
        "print(relaydet.jobs.train.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(wheel))
