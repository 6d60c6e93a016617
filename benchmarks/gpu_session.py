"""All that only a GPU can show, part by part in the order of value, each within a limit.

    make gpu                                         or python benchmarks/gpu_session.py
    python benchmarks/gpu_session.py --dry --out out       tiny sizes on a CPU: does each part work?
    python benchmarks/gpu_session.py --parts loader memory

It needs neither git, pip nor internet: a plain copy of the tree, a Python with torch and
torchvision, and in the folder GPU_FILES (.gpu) the wheels that this Python lacks, unpacked here,
and the photos (coco128/). COMMIT says which commit the copy is of. What a part prints lies under
OUT as soon as it ends, tables in tables.md; what did not fit into the time is named at the end.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOTAL = 540
"""Seconds of the whole session."""
LEAST = 15
"""Seconds that are worth starting a part in."""
SHOWN = 15
"""Lines of a part's output that are shown; all of it is in its file."""


@dataclass(frozen=True)
class Part:
    """One of the programs of a session."""

    name: str
    seconds: int
    """Its limit on a GPU."""
    command: tuple[str, ...]
    """What Python is given: a file of benchmarks/ and its arguments, or -m and a module."""


def parts(dry: bool, folder: Path) -> list[Part]:
    """All parts in the order of value.

    Args:
        dry: tiny sizes on a CPU, and no tests that need a GPU.
        folder: for stores and tables.
    """
    device, size, rounds, model = ("cpu", 64, 1, "small") if dry else ("cuda", 800, 7, None)
    model = model or "resnet50_fpn"
    workers = "1" if dry else "4"
    common = ("--device", device, "--size", str(size))

    def speed(batch: int, seconds: int) -> Part:
        table = str(folder / f"speed{batch}.md")
        asked = ("--models", model, "--batches", str(2 if dry else batch), "--out", table)
        more = ("--rounds", str(rounds), "--workers", workers, "--parts")
        return Part(f"speed{batch}", seconds, ("train_speed.py", *common, *asked, *more))

    small = ("--model", "small", "--size", "64") if dry else ("--model", model, "--size", "320")
    counts = ("2",) if dry else ("8", "2")
    sizes = ("2",) if dry else ("2", "8", "16")
    store = ("--store", str(folder / "store"), "--device", device, "--image-size", str(size))
    found = [
        Part("facts", 60, ("gpu_facts.py", "--device", device)),
        Part("smoke", 70, ("gpu_smoke.py", *common, "--model", model, "--batch", sizes[-1])),
        speed(8, 90),
        Part("profile", 75, ("gpu_profile.py", *common, "--model", model, "--batches", *counts)),
        Part("tests", 90, ("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *TESTS)),
        speed(2, 70),
        speed(16, 90),
        Part("resume", 110, ("gpu_resume.py", "--device", device, *small, "--batch", "2")),
        Part("loader", 60, ("gpu_loader.py", "--device", device, *_loader(dry))),
        Part("memory", 60, ("memory.py", "--device", device, *_memory())),
        Part("inference", 60, ("inference_speed.py", *common, *_inference(dry, model))),
        Part("bench", 70, ("-m", "relaydet", "bench", *store, *_bench(dry, model, sizes))),
        Part("ranks", 100, ("-m", "pytest", "-q", "-m", "gpu", "tests/jobs/test_ranks.py")),
    ]
    return [part for part in found if not (dry and part.name in ("tests", "memory", "ranks"))]


TESTS = (
    "tests/runtime/test_device.py",
    "tests/runtime/test_preflight.py",
    "tests/training/test_loop.py",
    "tests/training/test_micro_batch.py",
    "tests/training/test_recompute.py",
    "tests/evaluation/test_predict.py",
)
"""Files with tests that need a GPU; those of ranks have a part of their own."""


def _loader(dry: bool) -> tuple[str, ...]:
    return ("--batch", *(("2", "--workers", "1") if dry else ("16", "--workers", "2", "4", "8")))


def _memory() -> tuple[str, ...]:
    return ("--batches", "8", "--precisions", "auto")


def _inference(dry: bool, model: str) -> tuple[str, ...]:
    images, batch, turns = ("2", "2", "1") if dry else ("64", "16", "3")
    return ("--models", model, "--images", images, "--batch", batch, "--turns", turns)


def _bench(dry: bool, model: str, sizes: Sequence[str]) -> tuple[str, ...]:
    return ("--model", model, "--batch-sizes", *sizes, "--steps", "2" if dry else "20")


def unpack(wheels: Sequence[Path], folder: Path) -> None:
    """Make wheels importable from a folder, without pip: they are zips of what is imported."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def environment(files: Path, folder: Path, dry: bool) -> dict[str, str]:
    """What parts are started with: where modules, photos and caches are."""
    unpack(sorted(files.rglob("*.whl")), folder / "wheels")
    paths = [ROOT / "lib", ROOT / "benchmarks", folder / "wheels"]
    before = os.environ.get("PYTHONPATH", "")
    result = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "RELAYDET_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    if (files / "coco128").is_dir():
        result["PHOTOS"] = str((files / "coco128").resolve())
    if dry:
        result.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return result


def run(part: Part, seconds: float, env: dict[str, str], file: Path) -> int | None:
    """Run a part, and write what it prints; its exit code, None where its time ran out."""
    program = part.command
    if program[0] != "-m":
        program = (str(ROOT / "benchmarks" / program[0]), *program[1:])
    with file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *program],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with its loader processes
                process.wait()


def heading(device: str) -> str:
    """Date, device and commit."""
    from train_speed import commit

    return (
        f"{datetime.date.today()}, commit {commit()}, {device}, {os.cpu_count()} cores, Python"
        f" {platform.python_version()}"
    )


def session(given: argparse.Namespace, folder: Path) -> int:
    """Run the parts; how many of them failed."""
    out, began = given.out, time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    env = environment(given.files, folder, given.dry)
    sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)
    lines, failed = [], 0
    for part in parts(given.dry, folder):
        if given.parts and part.name not in given.parts:
            continue
        left = given.total - (time.monotonic() - began)
        if left < LEAST:
            lines.append(f"| {part.name} | no time left | - |")
            print(lines[-1], flush=True)
            continue
        started, file = time.monotonic(), out / f"{part.name}.txt"
        code = run(part, left if given.dry else min(left, part.seconds), env, file)
        took = time.monotonic() - started
        said = "limit reached" if code is None else "done" if code == 0 else f"exit code {code}"
        failed += code != 0
        lines.append(f"| {part.name} | {said} | {took:.0f} |")
        print(lines[-1], flush=True)
        shown = file.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
        print("\n".join(line[:200] for line in shown), flush=True)
        _write_tables(out, folder, lines)
    return failed


def _write_tables(out: Path, folder: Path, lines: Sequence[str]) -> None:
    """Write how the parts ended and the tables that there are."""
    facts = out / "facts.txt"
    told = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition("= ")[2] for line in told if line.startswith("name =")]
    text = [heading(names[0] if names else "device not asked for")]
    text.append("\n".join(["| part | how it ended | s |", "| --- | --- | ---: |", *lines]))
    text += [path.read_text(encoding="utf-8") for path in sorted(folder.glob("speed*.md"))]
    (out / "tables.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    asked = argparse.ArgumentParser()
    asked.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu_out"))
    asked.add_argument("--files", type=Path, default=Path(os.environ.get("GPU_FILES") or ".gpu"))
    asked.add_argument("--parts", nargs="+", default=[], help="only these")
    asked.add_argument("--total", type=float, default=TOTAL, help="seconds of all parts")
    asked.add_argument("--dry", action="store_true", help="tiny sizes on a CPU")
    return asked


def main() -> None:
    given = parser().parse_args()
    known = [part.name for part in parts(False, Path())]
    if unknown := [name for name in given.parts if name not in known]:
        parser().error(f"no part {unknown[0]}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        failed = session(given, Path(folder))
    print(f"Tables and output: {given.out}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
