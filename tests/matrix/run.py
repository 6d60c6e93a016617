"""One virtual environment at a time: made, filled, looked at, tested in, removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from matrix.generations import Generation
from matrix.pythons import choose

TOP = Path(__file__).resolve().parents[2]
QUICK = ("-m", "not slow and not gpu and not browser")
SHOWN = ("tests/viewing", "tests/test_notebook.py", "tests/notebooks")
"""The tests of what ipywidgets shows."""
NEEDED_BYTES = 8e9
"""Of disk: a virtual environment takes 5 GB, and while wheels are unpacked more."""
LONGEST_SECONDS = 2 * 3600
"""Of one run of the tests: what hangs ends."""
PACKAGES = ("torch", "torchvision", "numpy", "ipywidgets", "google-cloud-storage")
LOOK = f"""
import json
from importlib.metadata import version
import torch, torchvision
flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)() or ""
packages = {{name: version(name) for name in {PACKAGES}}}
print(json.dumps([packages, torch.version.cuda, flags.split()]))
"""


@dataclass(frozen=True)
class Row:
    """How one generation did."""

    generation: Generation
    what: str
    """Name of the row."""
    python: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    """Names and versions, as installed."""
    cuda: str = ""
    """What the wheel of torch was built with."""
    architectures: tuple[str, ...] = ()
    """What it has kernels for."""
    passed: int = 0
    failed: tuple[str, ...] = ()
    """Names of the tests that failed, or ended in an error."""
    skipped: int = 0
    minutes: float = 0.0
    """Of the tests alone."""
    trouble: str = ""
    """Why there is no result, or what is wrong besides a test."""

    @property
    def lacking(self) -> tuple[str, ...]:
        """Architectures of the GPUs it is for that the wheel has no kernels for."""
        wanted = self.generation.architectures
        return tuple(name for name in wanted if name not in self.architectures)

    @property
    def good(self) -> bool:
        """Whether tests ran, and nothing is wrong."""
        return bool(self.passed) and not (self.failed or self.trouble or self.lacking)


def rows_of(
    generation: Generation, pythons: dict[str, str], copy: Path, extra: Sequence[str]
) -> Iterator[Row]:
    """Try a generation in an environment of its own.

    Args:
        generation: what to install.
        pythons: program by version.
        copy: the checkout to test; pip writes its metadata there.
        extra: more arguments for pytest.
    """
    version = choose(generation.pythons, pythons)
    blank = Row(generation, generation.name, python=version or "")
    if version is None:
        yield replace(blank, trouble=f"none of Python {', '.join(generation.pythons)} is here")
        return
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < NEEDED_BYTES:
        yield replace(blank, trouble=f"only {free / 1e9:.0f} GB free in {tempfile.gettempdir()}")
        return
    with tempfile.TemporaryDirectory(prefix=f"matrix-{generation.name}-") as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        say(f"{generation.name}: Python {version}, environments/{generation.file} ...")
        subprocess.run([pythons[version], "-m", "venv", python.parents[1]], check=True)
        wanted = ["-r", f"environments/{generation.file}", "-e", ".[dev]", *generation.pins]
        yield _tested(blank, python, copy, wanted, [*QUICK, *extra])
        for widgets in generation.widgets:
            row = replace(blank, what=f"{generation.name}, {widgets}")
            yield _tested(row, python, copy, [widgets], [*QUICK, *extra, *SHOWN])
        say(f"{generation.name}: removing its virtual environment ...")


def _tested(row: Row, python: Path, copy: Path, wanted: list[str], tests: list[str]) -> Row:
    trouble = _install(python, copy, wanted)
    if trouble:
        return replace(row, trouble=trouble)
    row = _looked_at(row, python, copy)
    if row.trouble:
        return row
    say(f"{row.what}: {_line(row)}; testing ...")
    return _with_tests(row, python, copy, tests)


def _install(python: Path, copy: Path, wanted: list[str]) -> str:
    """Install; returns what went wrong. Without a cache: five torches would stay in it."""
    say(f"pip install {' '.join(wanted)} ...")
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--no-cache-dir"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", *wanted],
        cwd=copy,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if not done.returncode:
        return ""
    return "pip: " + (done.stderr.strip().splitlines() or ["it does not say why"])[-1]


def _looked_at(row: Row, python: Path, copy: Path) -> Row:
    """What is installed, and what the wheel of torch has kernels for."""
    done = subprocess.run(
        [str(python), "-c", LOOK], cwd=copy, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return replace(row, trouble="import: " + done.stderr.strip().splitlines()[-1])
    packages, cuda, architectures = json.loads(done.stdout.splitlines()[-1])
    return replace(
        row,
        packages=tuple(packages.items()),
        cuda=cuda or "none",
        architectures=tuple(architectures),
    )


def _with_tests(row: Row, python: Path, copy: Path, tests: list[str]) -> Row:
    report = python.parents[1] / "report.xml"
    command = [str(python), "-m", "pytest", "-q", "-rfE", f"--junitxml={report}", *tests]
    # The kernels and commands that tests start must be this environment's.
    variables = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    variables.pop("PYTHONPATH", None)
    report.unlink(missing_ok=True)
    start = time.monotonic()
    try:
        code = subprocess.run(
            command, cwd=copy, env=variables, timeout=LONGEST_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return replace(row, trouble=f"the tests took more than {LONGEST_SECONDS // 3600} h")
    row = replace(row, minutes=(time.monotonic() - start) / 60)
    if code not in (0, 1) or not report.exists():
        return replace(row, trouble=f"pytest ended with code {code}")
    return _counted(row, report)


def _counted(row: Row, report: Path) -> Row:
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if _has(case, "failure") or _has(case, "error")]
    skipped = sum(_has(case, "skipped") for case in cases)
    names = dict.fromkeys(f"{case.get('classname')}::{case.get('name')}" for case in bad)
    return replace(
        row, passed=len(cases) - len(bad) - skipped, failed=tuple(names), skipped=skipped
    )


def _has(case: ElementTree.Element, tag: str) -> bool:
    return case.find(tag) is not None


def _line(row: Row) -> str:
    return ", ".join(f"{name} {version}" for name, version in row.packages)


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the checkout, so that it may be worked on meanwhile; without what git ignores."""
    ignored = (TOP / ".gitignore").read_text().split()
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        copy = Path(folder) / "checkout"
        names = shutil.ignore_patterns(*(line.strip("/") for line in ignored))
        shutil.copytree(TOP, copy, symlinks=True, ignore=names)
        shared = TOP.parent / "shared"  # what some tests read, where it is there
        if shared.exists():
            (copy.parent / "shared").symlink_to(shared.resolve())
        yield copy


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)
