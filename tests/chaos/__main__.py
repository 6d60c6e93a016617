"""The command line: `python tests/chaos --faults 200 --seed 1 --stores folder,gcs --out FILE`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

if not __package__:  # started by its path, and not with -m
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> int:
    """Run the harness; returns 1 where a rule was broken."""
    from chaos.harness import run
    from chaos.places import workshop
    from chaos.table import as_markdown

    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="of all stores together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stores", default="folder,gcs")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    parser.add_argument("--keep", action="store_true", help="keep what the sessions wrote")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of all that cleans up
    stores = asked.stores.split(",")
    share = {name: -(-asked.faults // len(stores)) for name in stores}
    with workshop(asked.keep) as folder:
        print(f"everything is in {folder}", file=sys.stderr)
        ledgers = run(share, asked.seed, folder)
    table = as_markdown(ledgers, asked.seed)
    print(table)
    if asked.out:
        asked.out.write_text(table)
    return int(any(ledger.violations for ledger in ledgers.values()))


if __name__ == "__main__":
    sys.exit(main())
