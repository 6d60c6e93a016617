"""Which releases of torch are tried, from which file, with which Python, for which GPUs."""

from __future__ import annotations

from dataclasses import dataclass

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
"""What the package runs on; each occurs in one generation at least where it is installed."""


@dataclass(frozen=True)
class Generation:
    """One row of the matrix, or several where `widgets` has entries."""

    name: str
    """What --only takes: the release of torch, or newest."""
    file: str
    """In environments/."""
    gpu: str
    """What this release is for."""
    architectures: tuple[str, ...]
    """What its wheel must have kernels for."""
    pythons: tuple[str, ...]
    """Those that it has wheels for, the one to take first."""
    pins: tuple[str, ...] = ()
    """Requirements beside the file's."""
    widgets: tuple[str, ...] = ()
    """Requirements on ipywidgets to try afterwards, each with the tests of what is shown."""


GENERATIONS = (
    Generation("2.0.1", "k80.txt", "K80", ("sm_37",), ("3.10", "3.11")),
    Generation("2.7.1", "p100.txt", "P100", ("sm_60",), ("3.11", "3.12", "3.10", "3.13")),
    # Kaggle's: torch 2.10.0 on Python 3.12.
    Generation(
        "2.10.0", "v100.txt", "V100, T4", ("sm_70", "sm_75"), ("3.12", "3.13", "3.11", "3.10")
    ),
    # Colab's: torch 2.11.0 on Python 3.13.
    Generation(
        "2.11.0",
        "local.txt",
        "T4, A100, H100",
        ("sm_75", "sm_80", "sm_90"),
        ("3.13", "3.12", "3.11", "3.10"),
        pins=("torch==2.11.0", "torchvision==0.26.0"),
    ),
    Generation(
        "newest",
        "ci.txt",
        "T4, A100, H100",
        ("sm_75", "sm_80", "sm_90"),
        ("3.13", "3.12", "3.11", "3.10"),
        widgets=("ipywidgets==7.7.1", "ipywidgets>=8,<9"),
    ),
)
