"""The command line: `python tests/matrix [--only 2.0.1,newest] [--pytest-args ...] [--out FILE]`.

Any Python from 3.10 on starts it, with nothing installed. All of it takes about an hour and a half
on two cores, and 8 GB of disk, since only one virtual environment exists at a time.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

if not __package__:  # started by its path, and not with -m
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> int:
    """Try each generation asked for; returns 1 where one is not good."""
    from matrix.generations import GENERATIONS
    from matrix.pythons import find_pythons
    from matrix.run import copied, rows_of, say
    from matrix.table import as_markdown, commit_of

    names = [generation.name for generation in GENERATIONS]
    parser = argparse.ArgumentParser(prog="matrix", description=__doc__)
    parser.add_argument("--only", default=",".join(names), help=f"of {','.join(names)}")
    parser.add_argument("--pytest-args", default="", help="more arguments, as one word")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    asked = parser.parse_args()
    only = asked.only.split(",")
    if unknown := [name for name in only if name not in names]:
        parser.error(f"--only {','.join(unknown)}: there are {', '.join(names)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of all that cleans up
    pythons = find_pythons()
    say(f"Pythons: {', '.join(pythons.values()) or 'none'}")
    rows = []
    with copied() as copy:
        commit = commit_of(copy)
        for generation in GENERATIONS:
            if generation.name in only:
                for row in rows_of(generation, pythons, copy, shlex.split(asked.pytest_args)):
                    say(f"{row.what}: {row.passed} passed, {len(row.failed)} failed. {row.trouble}")
                    rows.append(row)
    words = "".join(f" {shlex.quote(word)}" for word in sys.argv[1:])
    table = as_markdown(rows, pythons, commit, words)
    print(table)
    if asked.out:
        asked.out.write_text(table)
    return int(not all(row.good for row in rows))


if __name__ == "__main__":
    sys.exit(main())
