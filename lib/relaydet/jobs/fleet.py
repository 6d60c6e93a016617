"""Runs that any number of sessions work off: each takes the next one that nobody trains."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

from relaydet.config import FleetConfig, TrainConfig, check_name
from relaydet.errors import (
    LeaseHeldError,
    LeaseLostError,
    RankLostError,
    RelayError,
    StopError,
    StoreError,
)
from relaydet.jobs.train import train
from relaydet.json_file import UNDECODABLE, reason_of
from relaydet.places import expand_home
from relaydet.runtime.auto_store import find_store
from relaydet.storage.lease import look
from relaydet.storage.store import Store
from relaydet.training.export import is_exported
from relaydet.training.run_files import RunFiles, as_json

LOOK_AGAIN_SECONDS = 30.0
"""How often to look whether another session has finished its run, or died."""
LOSSES = 3
"""How often a run may lose one of its ranks before this session leaves it."""


@dataclass
class _Trouble:
    """What came in the way of runs in this session."""

    failed: dict[str, RelayError] = field(default_factory=dict)
    """By run, those that are left."""
    losses: Counter[str] = field(default_factory=Counter)
    """How often each run lost a rank."""


@dataclass(frozen=True)
class FleetResult:
    """How far a list of runs is."""

    runs: list[str]
    unfinished: list[str]
    """Those that are not trained to the end yet."""

    def __str__(self) -> str:
        done = len(self.runs) - len(self.unfinished)
        if not self.unfinished:
            return f"All {len(self.runs)} runs are done"
        left = ", ".join(self.unfinished)
        return f"{done} of {len(self.runs)} runs are done; run it again to go on with {left}"


def fleet(config: FleetConfig, say: Callable[[str], None] = print) -> FleetResult:
    """Train the runs of a list until all are done, or the time is over.

    Each run is trained under its lease, so that no two sessions train it at a time; what another
    session trains is left to it, and taken up where that one paused or died.

    Args:
        config: which list.
        say: takes each line that tells the user what happens.

    Raises:
        RelayError: there is no such list, or something in a run has to be mended.
    """
    check_name("FLEET", config.fleet)
    store = find_store(config.store, say, must_exist=not config.runs)
    runs = [_here(run, config, store.location) for run in _listed(store, config)]
    unfinished = work_off(store, runs, config.max_minutes, say)
    result = FleetResult([run.run for run in runs], unfinished)
    say(str(result))
    return result


def _here(run: TrainConfig, config: FleetConfig, store: str) -> TrainConfig:
    """A run of the list as this machine trains it."""
    return replace(
        run,
        store=store,
        gpus=config.gpus if run.gpus == "auto" else run.gpus,
        device=config.device if run.device == "auto" else run.device,
    )


def work_off(
    store: Store,
    runs: Sequence[TrainConfig],
    max_minutes: float | None,
    say: Callable[[str], None],
) -> list[str]:
    """Train what nobody else does, until all are done or the time is over.

    Args:
        store: where the runs are.
        runs: what to train, in this order.
        max_minutes: for all together; None takes as long as it takes.
        say: takes each line that tells the user what happens.

    Returns:
        Names of the runs that are not done.

    Raises:
        RelayError: what came in the way of the first run that could not be trained, once all others
            are done.
    """
    began = time.monotonic()
    trouble, done = _Trouble(), _Done(store)
    while left := [r for r in runs if r.run not in trouble.failed and not done.has(r)]:
        tried = 0
        for run in left:
            held = look(store, run.run)
            if held == "held" or done.has(run):
                continue  # looked at anew: the run before may have taken hours
            tried += 1
            minutes = _minutes_left(max_minutes, began)
            ready = replace(run, max_minutes=minutes)
            # What is silent has been watched here; ranks are processes that have not seen that.
            if _train(ready, trouble, say, patient=held == "silent") == "paused":
                return done.missing(runs)
        if not tried:
            if _minutes_left(max_minutes, began) == 0:
                return done.missing(runs)
            names = ", ".join(run.run for run in left)
            say(
                f"others train what is left, or have not given it back ({names}); looking again in"
                f" {LOOK_AGAIN_SECONDS:g} s"
            )
            time.sleep(LOOK_AGAIN_SECONDS)
    for error in trouble.failed.values():
        raise error
    return []


class _Done:
    """Which runs of a list are done; one that is, is not looked at again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: set[str] = set()

    def has(self, run: TrainConfig) -> bool:
        """Whether a run is done."""
        if run.run not in self._known and is_done(self._store, run):
            self._known.add(run.run)
        return run.run in self._known

    def missing(self, runs: Sequence[TrainConfig]) -> list[str]:
        """Names of those that are not."""
        return [run.run for run in runs if not self.has(run)]


def is_done(store: Store, run: TrainConfig) -> bool:
    """Whether a run was trained to its end, which more epochs move.

    The weights are looked at by their size alone: of a long list, reading them takes minutes.
    """
    files = RunFiles(store, run.run)
    try:
        status, started = files.status(), files.config()
    except StoreError:
        raise
    except RelayError:
        return False  # damaged: whoever trains it says so, and the others are not held up
    if not status or status.get("state") != "done" or started is None:
        return False
    if (started.epochs or 0) < (run.epochs or 0):
        return False
    return is_exported(store, run.run, status["step"], read=False)


def _train(run: TrainConfig, trouble: _Trouble, say: Callable[[str], None], patient: bool) -> str:
    """The state that a run ended in; "held" where another session has it, "failed" on an error.

    One that cannot be trained keeps the others waiting for nothing: it is noted, and left. A lost
    rank is no fault of the run, which goes on from its last checkpoint when its turn comes again.
    Who asked for a stop meanwhile gets one, whatever else went wrong.
    """
    say(f"next: {run.run}")
    try:
        result = train(run, say, patient=patient)
        return "held" if result.lost else result.state
    except (LeaseHeldError, LeaseLostError) as error:
        say(str(error).partition(";")[0])
        return "held"
    except StopError as error:
        say(f"run {run.run!r}: {error}")
        return "paused"
    except RelayError as error:
        trouble.losses[run.run] += 1
        lost = isinstance(error, RankLostError) and not error.told
        if lost and trouble.losses[run.run] < LOSSES:
            say(f"WARNING: run {run.run!r}: {error}")
        else:
            say(f"WARNING: run {run.run!r} cannot be trained: {error}")
            trouble.failed[run.run] = error
        return "paused" if error.stopped else "failed"


def _minutes_left(max_minutes: float | None, began: float) -> float | None:
    if max_minutes is None:
        return None
    return max(0.0, max_minutes - (time.monotonic() - began) / 60)


def _listed(store: Store, config: FleetConfig) -> list[TrainConfig]:
    """The runs of a list: from the file given, which is kept in the store, or from there."""
    name = f"fleets/{config.fleet}.json"
    if config.runs:
        runs = _read(Path(expand_home(config.runs, "RUNS")))
        store.write(name, as_json([asdict(run) for run in runs]))
        return runs
    if not store.exists(name):
        raise RelayError(
            f"{store.describe(name)}: there is no such list; give one with RUNS (--runs FILE), or"
            " check FLEET and STORE."
        )
    return _decoded(store.read(name), store.describe(name))


def _read(path: Path) -> list[TrainConfig]:
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise RelayError(f"RUNS: {path} cannot be read ({error.strerror}).") from error


def _decoded(data: bytes, where: str) -> list[TrainConfig]:
    try:
        entries = msgspec.json.decode(data, type=list[dict[str, msgspec.Raw]])
        runs = [msgspec.json.decode(msgspec.json.encode(e), type=TrainConfig) for e in entries]
    except UNDECODABLE as error:
        raise RelayError(f"{where}: not a list of runs ({reason_of(error)}).") from error
    known = set(TrainConfig.__dataclass_fields__)
    for place, entry in enumerate(entries):
        if unknown := sorted(set(entry) - known):
            raise RelayError(f"{where}: run {place} has an unknown parameter {unknown[0]!r}.")
        if "run" not in entry:
            raise RelayError(f"{where}: run {place} has no name; give it a run.")
    names = [run.run for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not runs:
        what = f"{twice[0]!r} is there twice" if twice else "the list is empty"
        raise RelayError(f"{where}: {what}.")
    for run in runs:
        check_name("RUN", run.run)
    return runs
