"""The command line: `python tests/fuzz --minutes 10 --only NAME --seed 1 --out FILE`.

Every reader in `readers.READERS` is given bad files for so many minutes, in a process of its own
with 4 GB of memory. It may return or raise a RelayError. Anything else is a fault and is kept with
its file: another exception, a wait of more than a minute, a process that dies.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random

if not __package__:  # started by its path, and not with -m
    sys.path[0] = str(Path(__file__).resolve().parents[1])

MEMORY = 4 << 30
LONGEST_SECONDS = 60
STARTING_SECONDS = 300


class TooLongError(BaseException):
    """A reader took longer than it may; no reader catches it."""


def main() -> int:
    """Fuzz each reader in turn; returns 1 where there was a fault."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each reader")
    parser.add_argument("--only", help="names of readers, with commas between; else all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, help="files for each reader at most")
    parser.add_argument("--faults", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_faults")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return fuzz_one(asked.child, asked)
    from fuzz.readers import READERS

    names = asked.only.split(",") if asked.only else list(READERS)
    rows = [_in_a_child(name, asked) for name in names]
    lines = [
        f"| {row['name']} | {row['inputs']} | {row['refused']} | {row['faults']} |" for row in rows
    ]
    head = ["| reader | files | refused in a sentence | faults |", "|---|---|---|---|"]
    table = "\n".join([f"Seed {asked.seed}, {asked.minutes:g} minutes each.", "", *head, *lines])
    print(table)
    if asked.out:
        asked.out.write_text(f"{table}\n")
    return int(any(row["faults"] for row in rows))


def _in_a_child(name: str, asked: argparse.Namespace) -> dict:
    """What came of one reader."""
    command = [sys.executable, __file__, "--child", name, "--minutes", str(asked.minutes)]
    command += ["--seed", str(asked.seed), "--faults", str(asked.faults)]
    command += ["--inputs", str(asked.inputs)] if asked.inputs else []
    limit = 60 * asked.minutes + 2 * LONGEST_SECONDS + STARTING_SECONDS
    counts = {"inputs": 0, "refused": 0, "faults": 1}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=limit)
        if done.stdout.strip():
            counts = json.loads(done.stdout.splitlines()[-1])
        else:
            print(f"{name}: the process died ({done.returncode})", file=sys.stderr)
    except subprocess.TimeoutExpired:
        print(f"{name}: the process hangs", file=sys.stderr)
    if counts["faults"]:
        print(f"{name}: files with faults are in {asked.faults}", file=sys.stderr)
    return {"name": name, **counts}


def fuzz_one(name: str, asked: argparse.Namespace) -> int:
    """Fuzz one reader in this process, and print what came of it as JSON."""
    from fuzz.damage import damaged
    from fuzz.readers import READERS
    from relaydet.errors import RelayError

    asked.faults.mkdir(parents=True, exist_ok=True)
    current = asked.faults / f"{name}_last"
    counts = {"inputs": 0, "refused": 0, "faults": 0}
    seen: set[str] = set()
    random = Random(f"{asked.seed} {name}")
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as folder:
        seeds, read = READERS[name](Path(folder))
        for seed in seeds:
            read(seed)  # what is whole must be read
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        until = time.monotonic() + 60 * asked.minutes
        while time.monotonic() < until and counts["inputs"] != asked.inputs:
            data = damaged(seeds, random)
            current.write_bytes(data)  # where the process dies, this is the file
            counts["inputs"] += 1
            signal.alarm(LONGEST_SECONDS)
            try:
                with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                    warnings.simplefilter("ignore")
                    read(data)
            except RelayError:
                counts["refused"] += 1
            except (Exception, TooLongError) as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                fault = f"{type(error).__name__}_{Path(place.filename).name}_{place.lineno}"
                if fault not in seen:
                    seen.add(fault)
                    (asked.faults / f"{name}_{fault}").write_bytes(data)
                    traceback.print_exc()
            finally:
                signal.alarm(0)
            counts["faults"] = len(seen)
    current.unlink()
    print(json.dumps(counts))
    return int(bool(seen))


def _too_long(*_: object) -> None:
    raise TooLongError


if __name__ == "__main__":
    sys.exit(main())
