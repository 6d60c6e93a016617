"""How long until something happens: commands that need no torch, and a run's first step.

Each is measured in a fresh process, in turn: the commands in wall time, and notebook 2 in a kernel
of its own, cell by cell, from its start to the end of the first training step on the demo set.

    python benchmarks/start_up.py
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from jupyter_client.manager import start_new_kernel

from relaydet.config import MergeConfig
from relaydet.jobs.merge import merge

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "2_train.ipynb"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import relaydet": ["-c", "import relaydet"],
    "relaydet --help": ["-m", "relaydet.cli", "--help"],
    "relaydet status": ["-m", "relaydet.cli", "status"],
}
HOOK = """
import time
from relaydet.training import steps
original = steps.train_steps
def first_step(**more):
    for done in original(**more):
        globals().setdefault("first_step_at", time.time())
        yield done
steps.train_steps = first_step
"""


def seconds_of(arguments: list[str], store: str) -> float:
    environment = {**os.environ, "RELAYDET_STORE": store}
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def until_first_step(store: str) -> dict[str, float]:
    """Seconds of each part of a notebook run up to the first step; the run then pauses."""
    shutil.rmtree(Path(store) / "runs", ignore_errors=True)
    cells = [
        c for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == "code"
    ]
    set_up, parameters, doctor, train, *_ = ("".join(cell["source"]) for cell in cells)
    began = time.time()
    manager, client = start_new_kernel(cwd=str(NOTEBOOK.parent))
    try:
        told = {"the kernel starts": time.time() - began}

        def run(code: str) -> float:
            at = time.time()
            client.execute_interactive(code, output_hook=lambda _: None)
            return time.time() - at

        run(f"{parameters}\nSTORE, MAX_MINUTES = {store!r}, 0")
        told["set-up cell"] = run(set_up)
        told["doctor cell"] = run(doctor)
        told["torch and torchvision are imported"] = run("import torch, torchvision")
        told["the rest is imported"] = run("import relaydet.jobs.train\n" + HOOK)
        at = time.time()
        run(train)
        reply = client.execute_interactive(
            "", user_expressions={"at": "first_step_at"}, output_hook=lambda _: None
        )
        first_step_at = float(reply["content"]["user_expressions"]["at"]["data"]["text/plain"])
        told["dataset, detector, first checkpoint, first step"] = first_step_at - at
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return {**told, "all, from run-all to the first step": sum(told.values())}


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        merge(MergeConfig(store=folder), say=lambda _: None)
        for _ in range(given.rounds):
            for name, arguments in COMMANDS.items():
                taken.setdefault(name, []).append(seconds_of(arguments, folder))
            for name, seconds in until_first_step(folder).items():
                taken.setdefault(name, []).append(seconds)
    print(
        f"{datetime.date.today()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, torch"
        f" {torch.__version__}; medians of {given.rounds}, and the slowest"
    )
    print("| what | s | slowest |\n| --- | ---: | ---: |")
    for name, all_of_it in taken.items():
        print(f"| {name} | {statistics.median(all_of_it):.2f} | {max(all_of_it):.2f} |")


if __name__ == "__main__":
    main()
