"""Where the runs of a store are: state, progress, time left, last AP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from relaydet.errors import RelayError
from relaydet.storage.store import Store, open_store
from relaydet.training.run_files import RunFiles

_COLUMNS = ("run", "state", "steps", "left", "AP50", "updated", "reason")


@dataclass(frozen=True)
class RunStatus:
    """One run, as its files tell."""

    run: str
    state: str
    """running, paused, done, failed; new before the first step; damaged."""
    step: int = 0
    """Optimizer steps done."""
    total_steps: int = 0
    seconds_left: float | None = None
    """Time to the end at the speed last logged; None where it is done or not known."""
    ap50: dict[str, float] | None = None
    """AP50 by dataset, of the exported model's evaluations."""
    updated: str = ""
    """When the status was written, in UTC."""
    reason: str = ""
    """Why it stopped, or what is damaged."""


def status(
    store: str = "auto", as_json: bool = False, say: Callable[[str], None] = print
) -> list[RunStatus]:
    """List the runs in a store.

    Args:
        store: folder that the runs are in, or auto.
        as_json: say one JSON document instead of a table.
        say: takes what is printed.
    """
    opened = open_store(store)
    runs = [_status_of(opened, name.rpartition("/")[2]) for name in opened.folders("runs")]
    if as_json:
        say(msgspec.json.encode([asdict(run) for run in runs]).decode())
    else:
        say(_table(runs) if runs else f"There is no run in {opened.describe('runs')}.")
    return runs


def _status_of(store: Store, run: str) -> RunStatus:
    files = RunFiles(store, run)
    try:
        found = files.status()
        if found is None:
            return RunStatus(run, "new")
        step, total = int(found["step"]), int(found["total_steps"])
        left = None if found["state"] == "done" else _seconds_left(files, total - step)
        ap50 = _ap50(store, run)
        updated, reason = str(found["updated"]), str(found["reason"])
        return RunStatus(run, str(found["state"]), step, total, left, ap50, updated, reason)
    except (KeyError, TypeError, ValueError, RelayError, msgspec.MsgspecError) as error:
        return RunStatus(run, "damaged", reason=str(error))


def _seconds_left(files: RunFiles, steps: int) -> float | None:
    log = files.log()
    return steps * float(log[-1]["seconds_per_step"]) if log else None


def _ap50(store: Store, run: str) -> dict[str, float] | None:
    name = f"runs/{run}/model.json"
    if not store.exists(name):
        return None
    found: dict[str, dict[str, Any]] = msgspec.json.decode(store.read(name))["ap"]
    return {dataset: float(metrics["AP50"]) for dataset, metrics in found.items()} or None


def _table(runs: list[RunStatus]) -> str:
    lines = [_COLUMNS, *map(_row, runs)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _row(run: RunStatus) -> tuple[str, ...]:
    share = f" ({run.step / run.total_steps:.0%})" if run.total_steps else ""
    left = "" if run.seconds_left is None else _hours(run.seconds_left)
    ap50 = ", ".join(f"{value:.3f} {dataset}" for dataset, value in (run.ap50 or {}).items())
    steps = f"{run.step}/{run.total_steps}{share}" if run.total_steps else ""
    return run.run, run.state, steps, left, ap50, run.updated, run.reason


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
