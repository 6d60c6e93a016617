"""The result as a Markdown table."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from matrix.generations import PYTHONS
from matrix.run import Row

TITLES = (
    "torch",
    "Python",
    "environments/",
    "installed",
    "CUDA",
    "GPU",
    "kernels for",
    "passed",
    "failed",
    "skipped",
    "minutes",
)


def as_markdown(rows: Sequence[Row], pythons: dict[str, str], commit: str, asked: str) -> str:
    """The table, the wheels' architectures, and what went wrong."""
    missing = [version for version in PYTHONS if version not in pythons]
    tried = {row.python for row in rows if row.passed}
    untried = [version for version in PYTHONS if version in pythons and version not in tried]
    lines = [
        "# The test-suite on each torch generation",
        "",
        f"`python tests/matrix{asked}`, {date.today()}, commit {commit}, {_machine()}. Each"
        " generation has a virtual environment of its own, with the file named and the tests' own"
        " needs. No GPU was used: that a GPU can be driven is read from the wheel's list of"
        " architectures, and the tests run on the processor.",
        "",
        f"| {' | '.join(TITLES)} |",
        f"|{'---|' * 7}{'---:|' * 4}",
        *map(_cells, rows),
        "",
        *_architectures(rows),
        *(f"- {_name(row)}: FAILED {name}" for row in rows for name in row.failed),
        *(f"- {_name(row)}: TROUBLE {row.trouble}" for row in rows if row.trouble),
        *([f"- not on this machine: Python {', '.join(missing)}"] if missing else []),
        *([f"- not tried: Python {', '.join(untried)}"] if untried else []),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> str:
    versions = dict(row.packages)
    others = ", ".join(f"{name} {version}" for name, version in row.packages if name != "torch")
    cells = [
        versions.get("torch", row.generation.name),
        row.python,
        " ".join([row.generation.file, *row.generation.pins]),
        others,
        row.cuda,
        row.generation.gpu,
        _kernels(row),
        str(row.passed),
        str(len(row.failed)),
        str(row.skipped),
        f"{row.minutes:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _kernels(row: Row) -> str:
    if not row.packages:
        return ""  # nothing was installed that could have any
    if row.lacking:
        return f"not {', '.join(row.lacking)}"
    return ", ".join(row.generation.architectures)


def _architectures(rows: Sequence[Row]) -> list[str]:
    wheels = {dict(row.packages)["torch"]: row.architectures for row in rows if row.packages}
    return [f"- torch {version} has {' '.join(names)}" for version, names in wheels.items()]


def _name(row: Row) -> str:
    return f"{row.what} on Python {row.python}"


def commit_of(top: Path) -> str:
    """The commit, and whether what ran is that commit."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=top, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    changed = git("status", "--porcelain", "--", "lib", "tests", "notebooks", "environments")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = f"{len(names)} cores of an " if names else ""
    return f"{cores}{names[0] if names else platform.processor() or platform.machine()}"
