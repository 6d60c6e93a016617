"""Write what names the repository: the first cell of each notebook, and the README's badges.

`make badges` writes them; with --check nothing is written, and what is stale is named.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

TOP = Path(__file__).parents[1]
NOTEBOOKS = sorted((TOP / "notebooks").glob("*.ipynb"))
MARKS = "<!-- badges: made by `make badges` -->", "<!-- end of badges -->"

CELL = """\
# relaydet is installed, beside this notebook, where RELAYDET_WHEEL says (a wheel or a folder), in a
# Kaggle data set or the Drive folder named relaydet, or it is cloned from its repository.
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY, TAG = "{repository}", "v{version}"


def refusal(path, name):
    # Why a wheel or a package is not taken; it is read, never imported.
    try:
        if name and not name.startswith("relaydet"):
            return f"the data set {{name!r}} is not named relaydet..."
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                (file,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
                text = wheel.read(file).decode()
            found = re.search("^Name: relaydet$.*?^Version: (.+?)$", text, re.M | re.S)
        else:
            text = (path / "relaydet/__init__.py").read_text(encoding="utf-8")
            found = re.search('^__version__ = "(.+)"', text, re.M)
        version = found[1] if found else "unknown"
        return "" if f"v{{version}}" == TAG else f"its version is {{version}}, not {{TAG[1:]}}"
    except Exception as error:
        return f"it cannot be read ({{error}})"


def places(top):
    # Wheels and packages at most five folders below, each with the data set that it is of.
    def unread(error):
        if os.path.lexists(top) or not isinstance(error, FileNotFoundError):
            print(
                f"{{error.filename}} cannot be read ({{error.strerror}}); where Drive's mount has"
                " died, run drive.mount('/content/drive') and this cell again"
            )

    if top.suffix == ".whl":
        yield top, ""
    for folder, names, files in [] if top.suffix == ".whl" else os.walk(top, True, unread, True):
        parts = Path(folder).relative_to(top).parts
        if len(parts) > 4:
            names.clear()
        slug = parts[2] if parts[:1] == ("datasets",) and len(parts) > 2 else (parts or ("",))[0]
        slug = slug if str(top).endswith("/kaggle/input") else ""
        if Path(folder).name == "relaydet" and "__init__.py" in files:
            yield Path(folder).parent, slug
        yield from ((Path(folder, n), slug) for n in files if re.match(r"relaydet-.*\\.whl$", n))


if importlib.util.find_spec("relaydet") is None:
    found = [path for path in (Path("../lib"), Path("lib")) if (path / "relaydet").is_dir()][:1]
    named = [Path(os.environ["RELAYDET_WHEEL"])] if os.environ.get("RELAYDET_WHEEL") else []
    for top in [*named, Path("/content/drive/MyDrive/relaydet"), Path("/kaggle/input")]:
        for path, slug in [] if found else places(top):
            why = refusal(path, slug)
            print(f"relaydet: {{path}} " + (f"is not taken: {{why}}" if why else "is taken"))
            found += [] if why or found else [path]
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE")
    cache = Path(home, ".cache/relaydet/source") if home else Path("/nowhere")
    if not home or not os.access(next(p for p in (cache, *cache.parents) if p.exists()), os.W_OK):
        cache = Path(tempfile.gettempdir()) if found else Path(tempfile.mkdtemp())
    clone = cache / TAG
    git = ["git", "clone", "-q", "--depth", "1", "-b", TAG, REPOSITORY, str(clone)]
    if not (found or (clone / "lib").is_dir()) and subprocess.call(git, start_new_session=True):
        raise RuntimeError(
            f"No relaydet: turn internet on, or attach a wheel from {{REPOSITORY}}"
            " as a data set named relaydet-wheel"
        )
    sys.path.append(str((found or [clone / "lib"])[0]))
from relaydet import bootstrap

bootstrap.install_missing()
from relaydet import notebook"""


def main() -> int:
    """Write, or check; the number of files that were stale is the exit code of a check."""
    repository, version = named(TOP / "pyproject.toml")
    wanted = {
        path: with_cell(path, CELL.format(repository=repository, version=version))
        for path in NOTEBOOKS
    }
    wanted[TOP / "README.md"] = with_badges(TOP / "README.md", repository, version)
    stale = [path for path, text in wanted.items() if path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(TOP)}: " + ("stale; run make badges" if checks() else "written"))
        if not checks():
            path.write_text(wanted[path])
    return len(stale) if checks() else 0


def checks() -> bool:
    """Whether nothing is to be written."""
    return "--check" in sys.argv[1:]


def named(pyproject: Path) -> tuple[str, str]:
    """The repository's address and the version; Python 3.10 cannot read TOML by itself."""
    text = pyproject.read_text()
    repository = re.search(r'^Repository = "(.+)"$', text, re.MULTILINE)
    version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    if not repository or not version:
        raise SystemExit(f"{pyproject}: names no Repository or no version.")
    return repository[1], version[1]


def with_cell(path: Path, cell: str) -> str:
    """A notebook's text with the cell as its first one of code."""
    notebook = json.loads(path.read_text())
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    first["source"] = cell.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def with_badges(path: Path, repository: str, version: str) -> str:
    """The README's text with a badge for each notebook and runtime between the marks."""
    owner = repository.removeprefix("https://github.com/")
    lines = ["| notebook | Colab | Kaggle |", "|---|---|---|"]
    for notebook in NOTEBOOKS:
        file = f"{owner}/blob/v{version}/notebooks/{notebook.name}"
        colab = f"https://colab.research.google.com/github/{file}"
        kaggle = f"https://kaggle.com/kernels/welcome?src=https://github.com/{file}"
        lines.append(
            f"| {notebook.stem} | [![Open in Colab](https://colab.research.google.com/assets/"
            f"colab-badge.svg)]({colab}) | [![Open in Kaggle](https://kaggle.com/static/images/"
            f"open-in-kaggle.svg)]({kaggle}) |"
        )
    before, _, rest = path.read_text().partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{path}: has no marks for the badges.")
    return before + "\n".join([MARKS[0], *lines, MARKS[1]]) + after


if __name__ == "__main__":
    sys.exit(main())
