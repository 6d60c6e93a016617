"""Fail where a notebook was committed with outputs, or without a kernel that papermill can find."""

import json
import sys
from pathlib import Path

LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}


def problems(path: Path) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    found = []
    if any(cell["outputs"] or cell["execution_count"] for cell in cells):
        found.append("has outputs: clear them before committing")
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        found.append("has no python3 kernelspec")
    if notebook["metadata"].get("language_info") != LANGUAGE:
        found.append("has another language_info than nbconvert needs to make a .py of it")
    if tags.count("parameters") != 1:
        found.append(f"has {tags.count('parameters')} cells tagged parameters instead of one")
    return [f"{path}: {problem}" for problem in found]


if __name__ == "__main__":
    everything = [line for name in sys.argv[1:] for line in problems(Path(name))]
    print("\n".join(everything) or "notebooks: no outputs, one parameters cell, a kernelspec")
    sys.exit(1 if everything else 0)
