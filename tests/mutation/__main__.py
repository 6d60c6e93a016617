"""The command line: `python tests/mutation --mutants 70 --seed 1 --out FILE`.

Each mutant gets a process forked from this one, which has torch imported and nothing of the
library. A mutant is caught where a test of its module fails, or takes far longer than it should.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started by its path, and not with -m
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mutation.mutants import Mutant, draw

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "training/checkpoint.py": ("training/test_checkpoint.py", "training/test_resume_places.py"),
    "training/saver.py": ("training/test_saver.py",),
    "training/resume.py": ("training/test_resume_places.py", "training/test_checkpoint.py"),
    "storage/lease.py": ("storage/test_lease.py",),
    "data/order.py": ("data/test_order.py", "data/test_loader.py"),
    "training/sampling.py": ("training/test_sampling.py",),
    "training/loop.py": ("training/test_loop.py", "training/test_micro_batch.py"),
}
"""The quick tests that should notice, quickest first."""
MARKS = "not slow and not gpu and not browser"
PATIENCE = 4.0
"""A mutant that takes so many times as long as the tests take without one is caught."""
LEAST_SECONDS = 60.0


@dataclass(frozen=True)
class Result:
    """What became of a mutant."""

    mutant: Mutant
    caught: bool
    how: str
    seconds: float


def main() -> int:
    """Run the mutants; returns 1 where fewer than 95 % are caught."""
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("--mutants", type=int, default=70)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="one of the modules, such as training/saver.py")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    asked = parser.parse_args()
    files = [asked.only] if asked.only else list(TESTS)
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    import pytest  # noqa: F401
    import torchvision  # noqa: F401  the imports that take the time

    with tempfile.TemporaryDirectory(prefix="relaydet-mutation-") as folder:
        lib = Path(folder) / "lib"
        shutil.copytree(ROOT / "lib", lib, ignore=shutil.ignore_patterns("__pycache__", "*.egg*"))
        usual = {file: _time_undisturbed(lib, file) for file in files}
        results = []
        for mutant in draw(lib, files, asked.mutants, asked.seed):
            results.append(_try(lib, mutant, usual[mutant.file]))
            last = results[-1]
            print(
                f"{len(results)}: {mutant.file}:{mutant.line} {mutant}: {last.how}"
                f" ({last.seconds:.0f} s)",
                flush=True,
            )
    table = as_markdown(results, asked.mutants, asked.seed)
    print(table)
    if asked.out:
        asked.out.write_text(table)
    return int(sum(result.caught for result in results) < 0.95 * len(results))


def _time_undisturbed(lib: Path, file: str) -> float:
    started = time.monotonic()
    code = _run_tests(lib, file, 1800)
    if code != 0:
        sys.exit(f"the tests of {file} fail without any mutant (exit code {code})")
    return time.monotonic() - started


def _try(lib: Path, mutant: Mutant, usual: float) -> Result:
    path = lib / "relaydet" / mutant.file
    source, started = path.read_text(), time.monotonic()
    path.write_text(mutant.applied(source))
    try:
        code = _run_tests(lib, mutant.file, max(LEAST_SECONDS, PATIENCE * usual))
    finally:
        path.write_text(source)
    how = {0: "SURVIVED", None: "caught: it hangs"}.get(code, "caught")
    return Result(mutant, code != 0, how, time.monotonic() - started)


def _run_tests(lib: Path, file: str, seconds: float) -> int | None:
    """Exit code of pytest in a process of its own; None where it took too long."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os._exit(_pytest(lib, file))
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        return None
    finally:
        _end_group(pid)


def _end_group(pid: int) -> None:
    """Loader processes and whatever else the tests started go too."""
    try:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _pytest(lib: Path, file: str) -> int:
    import pytest

    os.chdir(ROOT)
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    os.environ["PYTHONPATH"] = str(lib)
    sys.path.insert(0, str(lib))
    tests = [f"tests/{name}" for name in TESTS[file]]
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", MARKS, *tests]))


def as_markdown(results: list[Result], mutants: int, seed: int) -> str:
    """Return the table: what was caught of each module, and every survivor."""
    from chaos.table import commit_and_versions

    lines = [
        "# Mutation: do the quick tests notice small mistakes?",
        "",
        f"`python tests/mutation --mutants {mutants} --seed {seed}`, {commit_and_versions()}",
        "",
        "| module | mutants | caught | of these by a time limit |",
        "|---|---:|---:|---:|",
    ]
    for file in dict.fromkeys(result.mutant.file for result in results):
        lines.append(_row(file, [result for result in results if result.mutant.file == file]))
    lines.append(_row("all", results))
    survivors = [result.mutant for result in results if not result.caught]
    lines += ["", f"Survivors: {len(survivors) or 'none'}", ""]
    lines += [f"- {mutant.file}:{mutant.line}: {mutant}" for mutant in survivors]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, results: list[Result]) -> str:
    caught = [result for result in results if result.caught]
    hung = sum("hangs" in result.how for result in caught)
    share = 100 * len(caught) / len(results)
    return f"| {name} | {len(results)} | {len(caught)} ({share:.0f} %) | {hung} |"


if __name__ == "__main__":
    sys.exit(main())
