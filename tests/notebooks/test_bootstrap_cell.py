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
    "__init__.py": '__version__ = "0.1.0"\n',
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
        wheel.writestr(
            "relaydet-0.1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: relaydet\nVersion: 0.1.0\n",
        )


def run(folder: Path, cwd: str = "notebooks", path: str = "", **variables: str):
    """Run the cell where the file system begins at `folder`."""
    if not BARE.exists():
        pytest.skip(f"there is no {BARE.name} without relaydet")
    (folder / cwd).mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir(exist_ok=True)
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
    assert len(next(iter(cells().values())).splitlines()) <= 42


@pytest.mark.parametrize(
    ("place", "put"),
    [
        pytest.param("lib/relaydet", put_package, id="beside the notebook"),
        pytest.param("notebooks/lib/relaydet", put_package, id="below it: papermill from the top"),
        pytest.param("kaggle/input/relaydet", put_package, id="data set that is the package"),
        pytest.param(
            "kaggle/input/relaydet-code/lib/relaydet", put_package, id="repository as a data set"
        ),
        pytest.param(
            "kaggle/input/datasets/ada/relaydet-x/relaydet", put_package, id="Kaggle's new layout"
        ),
        pytest.param("kaggle/input/relaydet-wheels", put_wheel, id="wheel as a data set"),
        pytest.param(
            "kaggle/input/datasets/ada/relaydet-wheels", put_wheel, id="wheel, new layout"
        ),
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
    *taken, found = done.stdout.splitlines()
    assert found.startswith("found "), done.stdout
    assert [line.rpartition(" ")[2] for line in taken] == ["taken"] * (place[0] in "kc")
    assert Path(found.split()[1]).resolve().is_relative_to((tmp_path / place).resolve())


def put_evil(folder: Path) -> None:
    put_package(folder)
    (folder / "__init__.py").write_text(
        f'__version__ = "0.1.0"\nopen({str(folder)!r} + ".ran", "w")\n'
    )


@pytest.mark.parametrize(
    ("place", "version", "looked_at"),
    [
        ("kaggle/input/nice-photos/extra", "0.1.0", False),
        ("kaggle/input/nice-photos/relaydet-x", "0.1.0", False),
        ("kaggle/input/datasets/ada/photos", "0.1.0", False),
        ("kaggle/input/datasets/relaydet/photos", "0.1.0", False),
        ("kaggle/input/relaydet-old/lib", "0.0.9", True),
        ("kaggle/input/relaydet-odd/lib", None, True),
        ("content/drive/MyDrive/relaydet/lib", "0.0.9", True),
    ],
)
def test_what_is_not_ours_is_never_imported(tmp_path, repository, place, version, looked_at):
    tag, variables = repository
    folder = tmp_path / place / "relaydet"
    put_evil(folder)
    text = (folder / "__init__.py").read_text()
    said = f'__version__ = "{version}"\n' if version else ""
    (folder / "__init__.py").write_text(text.replace('__version__ = "0.1.0"\n', said))
    done = run(tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    refused = f"relaydet: {folder} is not taken: it is not version 0.1.0"
    assert (refused in done.stdout) == looked_at
    assert f"source/{tag}/lib/relaydet" in done.stdout.splitlines()[-1]
    assert not folder.with_name("relaydet.ran").exists()


@pytest.mark.parametrize("content", [{"relaydet/__init__.py": '__version__ = "0.2.0"'}, {}, None])
def test_a_wheel_with_another_version_in_it_is_not_taken(tmp_path, repository, content):
    _, variables = repository
    file = tmp_path / "kaggle/input/relaydet-wheel/relaydet-0.1.0-py3-none-any.whl"
    file.parent.mkdir(parents=True)
    if content is None:
        file.write_bytes(b"no zip")
    else:
        with zipfile.ZipFile(file, "w") as wheel:
            for name, text in content.items():
                wheel.writestr(name, text)
    done = run(tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert f"{file} is not taken: it is not version 0.1.0" in done.stdout


@pytest.mark.parametrize("as_file", [False, True], ids=["folder", "wheel"])
def test_a_place_that_the_user_names_is_taken(tmp_path, as_file):
    put_wheel(tmp_path / "mine")
    (wheel,) = (tmp_path / "mine").glob("*.whl")
    done = run(tmp_path, RELAYDET_WHEEL=str(wheel if as_file else wheel.parent))
    assert f"relaydet: {wheel} is taken" in done.stdout, done.stderr


def test_a_dead_mount_is_passed_over(tmp_path, repository):
    _, variables = repository
    hook = tmp_path / "hook/sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(
        "import errno, os\nreal = os.scandir\n"
        "def scandir(path='.'):\n"
        "    if 'MyDrive' in str(path):\n"
        "        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), path)\n"
        "    return real(path)\nos.scandir = scandir\n"
    )
    (tmp_path / "content/drive/MyDrive/relaydet").mkdir(parents=True)
    done = run(tmp_path, path=str(hook.parent), **variables)
    assert done.returncode == 0, done.stderr
    assert "source/" in done.stdout.splitlines()[-1], "it goes on, and clones"


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
