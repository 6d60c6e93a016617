"""Where the runs of a store are: state, holder, progress, time left, last AP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import msgspec

from relaydet.console import json_text, shown
from relaydet.errors import DamagedError, RelayError, StoreError
from relaydet.json_file import decode_json
from relaydet.runtime.auto_store import find_store
from relaydet.storage.lease import read_holder
from relaydet.storage.store import Store
from relaydet.training.outlook import duration
from relaydet.training.run_files import RunFiles

_COLUMNS = ("run", "state", "steps", "left", "AP50", "held by", "updated", "reason")


class _Metrics(msgspec.Struct):
    """The part of an evaluation's metrics.json that status reports."""

    AP50: Annotated[float, msgspec.Meta(ge=-1, le=1)]


@dataclass(frozen=True)
class RunStatus:
    """One run, as its files tell."""

    run: str
    state: str
    """running, paused, done, failed; new before the first step; interrupted where it was running
    and nobody holds it any more; silent where somebody does and the lease looks old, so that its
    session died or a clock is wrong; damaged."""
    step: int = 0
    """Optimizer steps done."""
    total_steps: int = 0
    seconds_left: float | None = None
    """Time to the end at the speed last logged; None where it is done or not known."""
    ap50: dict[str, float] | None = None
    """AP50 by dataset, as last evaluated."""
    holder: str = ""
    """The machine that trains it now; empty where none does."""
    sessions_left: int | None = None
    """Further sessions as long as the last one."""
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
    # What auto came to is no part of the JSON.
    opened = find_store(store, (lambda line: None) if as_json else say, must_exist=True)
    runs = [_status_of(opened, name.rpartition("/")[2]) for name in opened.folders("runs")]
    if as_json:
        say(json_text([asdict(run) for run in runs]))
    else:
        say(_table(runs) if runs else f"There is no run in {opened.describe('runs')}.")
        if len(runs) > 1:
            say(_forecast(runs, _listed(opened)))
    return runs


def _status_of(store: Store, run: str) -> RunStatus:
    files = RunFiles(store, run)
    try:
        found = files.status()
        if found is None:
            return RunStatus(run, "new", holder=_holder(store, run)[0])
        state, reason = str(found["state"]), str(found["reason"])
        holder, doubt = _holder(store, run)
        if state == "running" and not holder:
            state, reason = ("silent", doubt) if doubt else ("interrupted", reason)
        ap50, damaged = _ap50(store, run)
        return RunStatus(
            run=run,
            state=state,
            step=int(found["step"]),
            total_steps=int(found["total_steps"]),
            seconds_left=None if state == "done" else found.get("seconds_left"),
            ap50=ap50,
            holder=holder,
            # While it runs, a session is as long as it was until now: that says nothing.
            sessions_left=found.get("sessions_left") if state == "paused" else None,
            updated=str(found["updated"]),
            reason="; ".join(filter(None, [reason, *damaged])),
        )
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RelayError) as error:
        return RunStatus(run, "damaged", reason=str(error))


def _holder(store: Store, run: str) -> tuple[str, str]:
    """The machine that trains a run, if the clocks agree, and what makes that doubtful."""
    held = read_holder(store, run)
    if held is None or held.is_free():
        return "", ""
    doubt = held.doubt()
    return ("" if doubt else f"{held.host} ({held.runtime})"), doubt


def _ap50(store: Store, run: str) -> tuple[dict[str, float] | None, list[str]]:
    """Return AP50 by dataset, and a sentence for each file that cannot tell it.

    It is of the evaluations, which stay when the run goes on and its weights are exported again.
    """
    found, damaged = {}, []
    for folder in store.folders(f"runs/{run}/evaluations"):
        name = f"{folder}/metrics.json"
        if not store.exists(name):
            continue
        try:
            metrics = decode_json(
                store.read(name), store.describe(name), _Metrics, remedy="evaluate the run again"
            )
            found[folder.rpartition("/")[2]] = metrics.AP50
        except DamagedError as error:
            damaged.append(str(error).rstrip("."))
    return found or None, damaged


def _table(runs: list[RunStatus]) -> str:
    # A folder's name or a reason may hold line ends, which are no line of this table.
    lines = [[_in_a_line(cell) for cell in line] for line in (_COLUMNS, *map(_row, runs))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _in_a_line(cell: str) -> str:
    return shown(cell).replace("\n", "\\n").replace("\t", "\\t")


def _forecast(runs: list[RunStatus], listed: set[str]) -> str:
    """How far all runs are together, and when those under way will be done at this pace."""
    everything = {run.run for run in runs} | listed
    done = sum(run.state == "done" for run in runs)
    workers = sum(bool(run.holder) for run in runs)
    left = sum(run.seconds_left or 0 for run in runs)
    line = f"{done} of {len(everything)} runs are done, {workers} in training"
    if left:
        pace = duration(left / workers) if workers else f"{duration(left)} of training"
        line += f"; about {pace} left for those under way"
    waiting = len(everything) - sum(run.state != "new" for run in runs)
    return f"{line}; {waiting} not begun" if waiting else line


def _listed(store: Store) -> set[str]:
    """Names of the runs in the lists that fleets work off."""
    names: set[str] = set()
    for file in store.names("fleets"):
        try:
            entries = decode_json(store.read(file), file, list[dict[str, Any]])
        except DamagedError:
            continue  # `relaydet fleet` says what is wrong with it
        names |= {str(entry["run"]) for entry in entries if "run" in entry}
    return names


def _row(run: RunStatus) -> tuple[str, ...]:
    share = f" ({run.step / run.total_steps:.0%})" if run.total_steps else ""
    left = "" if run.seconds_left is None else duration(run.seconds_left)
    if run.sessions_left:
        left += f" ({run.sessions_left} more session{'s' if run.sessions_left > 1 else ''})"
    ap50 = ", ".join(f"{value:.3f} {dataset}" for dataset, value in (run.ap50 or {}).items())
    steps = f"{run.step}/{run.total_steps}{share}" if run.total_steps else ""
    return run.run, run.state, steps, left, ap50, run.holder, run.updated, run.reason
