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
import glob
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY, TAG = "{repository}", "v{version}"
if importlib.util.find_spec("relaydet") is None:
    found = [path for path in (Path("../lib"), Path("lib")) if (path / "relaydet").is_dir()]
    tops = [os.environ.get("RELAYDET_WHEEL") or "-", "/content/drive/MyDrive/relaydet"]
    tops += glob.glob("/kaggle/input/relaydet*") + glob.glob("/kaggle/input/datasets/*/relaydet*")
    ends = [deep + end for deep in ("/", "/*/", "/*/*/") for end in ("relaydet", "relaydet-*.whl")]
    for path in [Path(p) for top in tops for end in ["", *ends] for p in glob.glob(top + end)]:
        code, wheel = path / "__init__.py", path.suffix == ".whl"
        if found or not (wheel or (path.name == "relaydet" and code.is_file())):
            continue
        try:  # it is read, and imported only where it is of this version
            inside = "relaydet/__init__.py"
            text = zipfile.ZipFile(path).read(inside) if wheel else code.read_bytes()
        except Exception as error:
            text = str(error).encode()
        ours = f'__version__ = "{{TAG[1:]}}"'.encode() in text
        verdict = "taken" if ours else f"not taken: it is not version {{TAG[1:]}}"
        print(f"relaydet: {{path}} is {{verdict}}")
        found += [path if wheel else path.parent] if ours else []
    home = os.path.expanduser("~")
    home = home if os.access(home, os.W_OK) else tempfile.mkdtemp()
    clone = Path(home, ".cache/relaydet/source", TAG)
    git = ["git", "clone", "-q", "--depth", "1", "-b", TAG, REPOSITORY, str(clone)]
    if not (found or (clone / "lib").is_dir()) and subprocess.call(git, start_new_session=True):
        wheel = f"a wheel from {{REPOSITORY}} as a data set named relaydet-wheel"
        raise RuntimeError(f"No relaydet: turn internet on, or attach {{wheel}}")
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
