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
# relaydet is installed, beside this notebook, attached (folder or wheel), or in its repository.
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY, TAG = "{repository}", "v{version}"
if importlib.util.find_spec("relaydet") is None:
    found = [path for path in (Path("../lib"), Path("lib")) if (path / "relaydet").is_dir()]
    for top in (Path("/kaggle/input"), Path("/content/drive/MyDrive/relaydet")):
        for below in ("", "*/", "*/*/", "*/*/*/", "*/*/*/*/"):
            found += [path.parents[1] for path in top.glob(below + "relaydet/__init__.py")]
            found += top.glob(below + "relaydet-*.whl")
    clone = Path.home() / ".cache/relaydet/source" / TAG
    git = ["git", "clone", "-q", "--depth", "1", "-b", TAG, REPOSITORY, str(clone)]
    if not (found or (clone / "lib").is_dir()) and subprocess.call(git, start_new_session=True):
        raise RuntimeError(f"No relaydet: turn internet on, or attach a wheel from {{REPOSITORY}}")
    sys.path.insert(0, str((found or [clone / "lib"])[0]))
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
