"""Installing what is missing: those packages alone, and nothing that is there moves."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from relaydet import bootstrap
from relaydet.bootstrap import NEEDED, install_missing, missing
from relaydet.errors import RelayError

TOP = Path(__file__).parents[1]


def test_the_table_is_requirements_txt():
    lines = (TOP / "requirements.txt").read_text().splitlines()
    assert [spec for _, spec in NEEDED] == [line for line in lines if line and line[0] != "#"]


def test_here_nothing_is_missing_and_nothing_is_done(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    install_missing()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("installed", "spec", "lacks"),
    [
        pytest.param("2.11.0+cu128", "numpy>=2.0", False, id="newer, with a local part"),
        pytest.param("2.0", "numpy>=2.0", False, id="just"),
        pytest.param("1.9.5", "numpy>=1.24", True, id="by number, not by letter"),
        pytest.param("3", "numpy>=2.0.1", False, id="short"),
        pytest.param("", "numpy>=1.0", False, id="without metadata"),
        pytest.param("2.0rc1", "numpy>=2.0", False, id="a candidate"),
    ],
)
def test_versions_are_compared_as_numbers(monkeypatch, installed, spec, lacks):
    monkeypatch.setattr(bootstrap, "_installed", lambda name: installed)
    assert bool(missing([("numpy", spec)])) == lacks


@pytest.mark.parametrize("module", ["no_such_module", "google.no_such_part", "no_such.part"])
def test_what_cannot_be_found_is_missing(module):
    assert missing([(module, "x>=1")]) == ["x>=1"]


def test_the_runtimes_own_torch_is_never_replaced(monkeypatch):
    monkeypatch.setattr(bootstrap, "_installed", lambda name: "1.13.1")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    with pytest.raises(RelayError, match=r"torch 1\.13\.1 is too old \(torch>=2\.0 is needed\)"):
        install_missing([("torch", "torch>=2.0")])


def test_without_pip_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    real = bootstrap.importlib.util.find_spec
    monkeypatch.setattr(
        bootstrap.importlib.util, "find_spec", lambda name: None if name == "pip" else real(name)
    )
    with pytest.raises(RelayError, match="pip is as well; install x>=1"):
        install_missing([("no_such_module", "x>=1")])


def make_wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A wheel with one module; see the PyPA's specification of binary distributions."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A Python of its own that has old_one 1.0, and a folder of wheels as Kaggle attaches it."""
    folder = tmp_path_factory.mktemp("machine")
    venv.create(folder / "venv", with_pip=True)
    python = next((folder / "venv").glob("*/python"))
    make_wheel(folder / "first", "old_one", "1.0")
    pip(python, "install", "--no-index", "-f", folder / "first", "old_one")
    make_wheel(folder / "input/relaydet-wheels/a", "old_one", "2.0")
    make_wheel(folder / "input/relaydet-wheels/a", "new_one", "1.0", needs="old_one>=1.0")
    make_wheel(folder / "input/relaydet-wheels/a", "newest", "1.0")
    make_wheel(folder / "input/relaydet-wheels/a", "greedy", "1.0", needs="old_one>=2.0")
    return python, folder / "input"


def pip(python: Path, *arguments) -> str:
    done = subprocess.run(
        [python, "-m", "pip", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def install(machine, *needed: tuple[str, str]):
    """Call install_missing in that Python, far from any package index."""
    python, wheels = machine
    code = (
        f"import sys; sys.path.insert(0, {str(TOP / 'lib')!r})\n"
        "from pathlib import Path\n"
        "from relaydet.bootstrap import install_missing\n"
        f"install_missing({needed!r}, Path({str(wheels)!r}))\n"
        f"import {needed[0][0]}"
    )
    environment = {"PIP_NO_INDEX": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_attached_wheels_are_installed_and_what_is_there_does_not_move(machine):
    done = install(machine, ("new_one", "new_one>=1.0"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "installing new_one>=1.0 (what is there stays as it is)\n"
        f"wheels are taken from {machine[1]}/relaydet-wheels/a\n"
    )
    installed = pip(machine[0], "list", "--format", "freeze")
    assert re.findall(r"^(?:old|new)[-_]one==.*$", installed, re.MULTILINE) == [
        "new_one==1.0",
        "old_one==1.0",
    ]


def test_wheels_of_other_data_sets_are_not_taken(machine):
    ours, theirs = machine[1] / "relaydet-wheels", machine[1] / "nice-photos"
    ours.rename(theirs)
    try:
        done = install(machine, ("newest", "newest>=1.0"))
    finally:
        theirs.rename(ours)
    assert done.returncode == 1
    assert "nice-photos" not in done.stdout
    assert "newest>=1.0: cannot be installed" in done.stderr


def test_what_would_move_something_is_not_installed(machine):
    done = install(machine, ("greedy", "greedy>=1.0"))
    assert done.returncode == 1
    assert "RelayError: greedy>=1.0: cannot be installed" in done.stderr
    installed = pip(machine[0], "list", "--format", "freeze")
    assert "greedy" not in installed
    assert re.search(r"^old[-_]one==1\.0$", installed, re.MULTILINE)


def test_what_is_nowhere_is_named_with_a_remedy(machine):
    done = install(machine, ("nowhere", "nowhere>=1.0"))
    assert done.returncode == 1
    assert re.search(r"nowhere>=1\.0: cannot be installed \(.*\); connect to the", done.stderr)
