"""Which runtime this is, and why: from environment variables and files alone, in no time.

Kaggle's image is built from Colab's, so it is looked for first. Neither an importable google.colab
nor a folder /kaggle/input proves anything: Kaggle has the one, Colab may have the other. And to be
on a Colab VM is one thing, to have its front end another: under papermill, or in a subprocess, what
asks the browser waits for minutes, or for ever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relaydet.console import is_terminal
from relaydet.places import ROOT


@dataclass(frozen=True)
class Runtime:
    """The kind of machine that a session runs on."""

    name: str
    """kaggle, colab, colab_enterprise, gcp_notebook, vertex_job, ci or local."""
    reason: str
    """What it was told by."""
    front_end: bool = False
    """A notebook in a browser or an editor runs this: it can be asked, and shows widgets."""
    interactive: bool = False
    """Somebody may be looking: a front end or a terminal, and no batch job."""


_KAGGLE = ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_TOKEN", "KAGGLE_URL_BASE")
_PRODUCTS = {
    "COLAB_ENTERPRISE": "colab_enterprise",
    "WORKBENCH_INSTANCE": "gcp_notebook",
    "WORKBENCH_CUSTOM_CONTAINER": "gcp_notebook",
}
_VARIABLES = (
    ("CLOUD_ML_JOB_ID", "vertex_job"),
    ("TBE_RUNTIME_ADDR", "colab"),
    ("COLAB_RELEASE_TAG", "colab"),
)
_FILES = (
    ("var/colab/hostname", "colab"),
    ("opt/deeplearning/metadata/env_version", "gcp_notebook"),
)
_BATCH = ("vertex_job", "ci")
_NO = ("", "0", "false")


def detect(
    environment: Mapping[str, str] = os.environ,
    root: Path = ROOT,
    arguments: Sequence[str] | None = None,
    terminal: bool | None = None,
) -> Runtime:
    """Tell which runtime this is, and whether somebody can be asked.

    Args:
        environment: the environment variables.
        root: where the file system begins.
        arguments: of this process; None looks at them.
        terminal: whether standard input is one; None looks.
    """
    name, reason = _name(environment, root)
    arguments = sys.argv if arguments is None else arguments
    terminal = _on_a_terminal() if terminal is None else terminal
    batch = name in _BATCH or environment.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch"
    front_end = not batch and started_by_a_server(arguments)
    return Runtime(name, reason, front_end, front_end or (terminal and not batch))


def started_by_a_server(arguments: Sequence[str]) -> bool:
    """Whether a process with these arguments is the kernel of a notebook that somebody opened.

    Jupyter's server, Colab's and VS Code's name a kernel's connection file kernel-ID.json; whoever
    starts one to run a notebook through (papermill, nbconvert, nbclient) leaves the name to
    tempfile (jupyter_client: `MultiKernelManager.start_kernel`, `connect.write_connection_file`).
    """
    return any(name.startswith("kernel-") for name in _connection_files(arguments))


def runs_through(arguments: Sequence[str] | None = None) -> bool:
    """Whether this is the kernel of a notebook that papermill or the like runs through.

    Nobody can click in it. Of a kernel that tells neither, this is not assumed.
    """
    names = _connection_files(sys.argv if arguments is None else arguments)
    return any(name.startswith("tmp") for name in names)


def _connection_files(arguments: Sequence[str]) -> list[str]:
    if not arguments or not any(part in arguments[0] for part in ("ipykernel", "kernel_launcher")):
        return []
    files = (argument.removeprefix("--f=") for argument in arguments[1:])
    return [Path(file).name for file in files if file.endswith(".json")]


def _name(environment: Mapping[str, str], root: Path) -> tuple[str, str]:
    for variable in _KAGGLE:
        if environment.get(variable):
            return "kaggle", f"{variable} is set"
    product = environment.get("VERTEX_PRODUCT", "")
    if product in _PRODUCTS:
        return _PRODUCTS[product], f"VERTEX_PRODUCT is {product}"
    for variable, name in _VARIABLES:
        if environment.get(variable):
            return name, f"{variable} is set"
    for file, name in _FILES:
        if (root / file).exists():
            return name, f"there is a file /{file}"
    if environment.get("DL_ANACONDA_HOME"):
        return "gcp_notebook", "DL_ANACONDA_HOME is set"
    if environment.get("CI", "").lower() not in _NO:
        return "ci", "CI is set"
    return "local", "nothing speaks for another"


def _on_a_terminal() -> bool:
    """Standard input is None under pythonw, and may be closed."""
    return is_terminal(sys.stdin)
