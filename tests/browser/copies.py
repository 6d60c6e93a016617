"""Copies of the notebooks, laid out like the repository, with other parameters."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat

REPOSITORY = Path(__file__).resolve().parents[2]


def lay_out(folder: Path) -> Path:
    """Copy the notebooks to folder/notebooks, with lib/ beside it; returns that folder."""
    (folder / "lib").symlink_to(REPOSITORY / "lib", target_is_directory=True)
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        shutil.copy(path, notebooks)
    return notebooks


def set_parameters(path: Path, **values: Any) -> None:
    """Give parameters other values, in the cell tagged so, as a person types them there."""
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    lines = cell.source.splitlines()
    for name, value in values.items():
        (place,) = [at for at, line in enumerate(lines) if line.startswith(f"{name} = ")]
        lines[place] = f"{name} = {value!r}"
    cell.source = "\n".join(lines)
    nbformat.write(notebook, path)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    """The code cells of a saved notebook, in order."""
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def failures_in(path: Path) -> list[str]:
    """Each error in a saved notebook, and the code of each cell that did not run."""
    cells = code_cells(path)
    outputs = [output for cell in cells for output in cell.outputs]
    errors = [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"]
    return errors + [f"did not run: {c.source}" for c in cells if c.execution_count is None]
