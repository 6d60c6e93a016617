"""Which runtime this is, and why: from environment variables and files alone, in no time.

Kaggle's image is built from Colab's, so it is looked for first. Neither an importable google.colab
nor a folder /kaggle/input proves anything: Kaggle has the one, Colab may have the other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Runtime:
    """The kind of machine that a session runs on."""

    name: str
    """kaggle, colab, colab_enterprise, gcp_notebook, vertex_job or local."""
    reason: str
    """What it was told by."""


_KAGGLE = ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_TOKEN", "KAGGLE_URL_BASE")
_PRODUCTS = {
    "COLAB_ENTERPRISE": "colab_enterprise",
    "WORKBENCH_INSTANCE": "gcp_notebook",
    "WORKBENCH_CUSTOM_CONTAINER": "gcp_notebook",
}
_COLAB = ("TBE_RUNTIME_ADDR", "COLAB_RELEASE_TAG")
_FILES = {
    "var/colab/hostname": "colab",
    "opt/deeplearning/metadata/env_version": "gcp_notebook",
}


def detect(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Runtime:
    """Tell which runtime this is.

    Args:
        environment: the environment variables.
        root: where the file system begins.
    """
    for name in _KAGGLE:
        if environment.get(name):
            return Runtime("kaggle", f"{name} is set")
    product = environment.get("VERTEX_PRODUCT", "")
    if product in _PRODUCTS:
        return Runtime(_PRODUCTS[product], f"VERTEX_PRODUCT is {product}")
    if environment.get("CLOUD_ML_JOB_ID"):
        return Runtime("vertex_job", "CLOUD_ML_JOB_ID is set")
    for name in _COLAB:
        if environment.get(name):
            return Runtime("colab", f"{name} is set")
    for file, runtime in _FILES.items():
        if (root / file).exists():
            return Runtime(runtime, f"there is a file /{file}")
    if environment.get("DL_ANACONDA_HOME"):
        return Runtime("gcp_notebook", "DL_ANACONDA_HOME is set")
    return Runtime("local", "nothing speaks for another")
