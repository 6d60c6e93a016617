"""Machines of Colab, Kaggle and Google Cloud, as far as relaydet looks: variables, files, modules.

The modules behave as the real ones were seen to: drive.mount waits for a browser that never answers
under papermill, Colab Enterprise has none, Kaggle's secrets raise BackendError where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CLEARED = ("CI", "RELAYDET_STORE", "RELAYDET_SESSION_HOURS", "GOOGLE_APPLICATION_CREDENTIALS")
UPTIME = "600.00 1000.00\n"

MOUNT = {
    "works": """
        from relaydet.places import DRIVE, MOUNTS
        (DRIVE / "MyDrive").mkdir(parents=True)
        with open(MOUNTS, "a") as file:
            file.write("drive /content/drive fuse.drive rw 0 0\\n")
    """,
    "waits": "import time; time.sleep(3600)",
    "fails": "raise ValueError('mount failed')",
    "is not offered": "raise NotImplementedError('use Cloud Storage')",
}
SECRETS = """
    class BackendError(Exception):
        pass

    class UserSecretsClient:
        def get_secret(self, label):
            if label not in {secrets!r}:
                raise BackendError("No user secrets exist")
            return {secrets!r}[label]
"""


@dataclass(frozen=True)
class Machine:
    """One machine to stand on."""

    variables: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    """Empty files below its root."""
    mount: str | None = None
    """What google.colab.drive.mount does; None without google.colab."""
    mounted: bool = False
    """Drive is mounted already."""
    secrets: dict[str, str] | None = None
    """Of a Kaggle notebook; None without kaggle_secrets."""
    front_end: bool = False
    """A browser started the kernel, and not papermill."""

    def stand_on(self, monkeypatch, folder: Path) -> Path:
        """Make this process, and the kernels that it starts, see the machine; its root."""
        root, modules = folder / "root", folder / "modules"
        for name in (*self.files, "proc/mounts", "proc/uptime"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        (root / "proc/uptime").write_text(UPTIME)
        if self.mounted:
            (root / "content/drive/MyDrive").mkdir(parents=True)
            (root / "proc/mounts").write_text("drive /content/drive fuse.drive rw 0 0\n")
        if self.mount:
            body = MOUNT[self.mount].strip()
            put(modules / "google/colab/__init__.py", "")
            put(modules / "google/colab/drive.py", f"def mount(place):\n        {body}\n")
        if self.secrets is not None:
            put(modules / "kaggle_secrets.py", dedented(SECRETS.format(secrets=self.secrets)))
        for name in CLEARED:
            monkeypatch.delenv(name, raising=False)
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RELAYDET_ROOT", str(root))
        monkeypatch.setenv("PYTHONPATH", str(modules))
        return root

    def run(self, name: str, folder: Path, **parameters) -> str:
        """Run all of a notebook as this machine does, from `folder`; what it printed."""
        source, out = NOTEBOOKS / f"{name}.ipynb", folder / f"{name}.ipynb"
        if not self.front_end:
            papermill.execute_notebook(source, out, parameters, cwd=folder, progress_bar=False)
            return printed(nbformat.read(out, as_version=4))
        notebook = nbformat.read(source, as_version=4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                given = (f"{key} = {value!r}" for key, value in parameters.items())
                cell.source = "\n".join([cell.source, *given])
        # Jupyter's server, and Colab's, give their kernels' connection files such a name.
        manager = KernelManager(connection_file=str(folder / f"kernel-{name}.json"))
        NotebookClient(
            notebook, km=manager, resources={"metadata": {"path": str(folder)}}
        ).execute()
        return printed(notebook)


def printed(notebook) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def dedented(text: str) -> str:
    return "\n".join(line[4:] for line in text.splitlines())
