"""The main loop: start a session, do harm to it, look whether every rule held, go on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.damages import DAMAGES
from chaos.ends import ENDS
from chaos.faults import Fault
from chaos.leg import Leg
from chaos.places import FolderPlace, Place, copy_dataset, open_place
from chaos.process import FORKED, SessionProcess, import_once
from chaos.rules import Allowed, RunRecord, outcome
from chaos.troubles import TROUBLES

EPOCHS, EPOCH_STEPS = 4, 5
DATASET = "tiny"
SETTINGS = {
    "dataset": DATASET,
    "model": "small",
    "epochs": EPOCHS,
    "batch_size": 4,
    "image_size": 64,
    "device": "cpu",
    "precision": "float32",
}
EVERY_STEP, EVERY_EPOCH = 0.001, 60.0
"""Minutes between checkpoints: less than a step takes, and more than an epoch."""
MOST_BAD_LEGS, MOST_VIOLATIONS = 3, 50
"""With so many in which a rule was broken a run is given up, and then all of it."""
TROUBLE_SHARE, DAMAGE_SHARE, EPOCH_SHARE = 0.6, 0.5, 0.15


@dataclass
class Ledger:
    """What one store went through."""

    times: Counter[str] = field(default_factory=Counter)
    """By kind of fault."""
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """By kind of fault: how the sessions of its leg ended."""
    repeated: Counter[str] = field(default_factory=Counter)
    """By kind of fault: the most steps that were repeated after it."""
    violations: list[tuple[list[str], int, str]] = field(default_factory=list)
    """Kinds of fault, number of the leg, and the rule that was broken."""
    sessions: int = 0
    runs: int = 0
    equal: int = 0
    """Runs that got done, with the weights of the undisturbed one."""
    steps: int = 0
    seconds: float = 0.0


class Part:
    """All runs in one store."""

    def __init__(self, place: Place, folder: Path, seed: int, reference: str) -> None:
        self.place, self.folder, self.cache = place, folder, folder / "cache"
        self._reference, self._seed = reference, f"{seed}/{place.name}"
        self._chance = random.Random(self._seed)
        self.machine = 0
        """Number of the machine that the sessions run on; a lost one is followed by another."""
        self.ledger = Ledger()
        self._decks: dict[int, list[Fault]] = {}
        self._legs = 0
        self._before: list[str] = []
        """Faults since the last session that trained: the next one shows what they cost."""

    def spec(
        self, run: str, chance: random.Random, every_step: bool, take_over: bool, faults: list
    ) -> dict[str, Any]:
        """What a session is to do; see `session.main`."""
        return {
            "config": {
                **SETTINGS,
                "run": run,
                "store": self.place.store,
                "workers": chance.choice((0, 0, 1, 2)),
                "checkpoint_minutes": EVERY_STEP if every_step else EVERY_EPOCH,
                "take_over": take_over,
            },
            "interval": 1 if every_step else EPOCH_STEPS,
            "environment": {"RELAYDET_CACHE": str(self.cache), **self.place.environment},
            "cache": str(self.cache),
            "store_folder": str(self.place.folder),
            "start_method": multiprocessing.get_start_method(),
            "machine": f"machine-{self.machine}",
            "faults": faults,
        }

    def go(self, faults: int, stop: threading.Event) -> Ledger:
        """Train run after run until so many faults took place and the last run is done."""
        started = time.monotonic()
        while sum(self.ledger.times.values()) < faults and not self._is_hopeless():
            record = RunRecord(f"run-{self.ledger.runs}", self.place)
            while not record.done and record.bad_legs < MOST_BAD_LEGS:
                if stop.is_set():
                    return self.ledger
                self._leg(record, harmless=sum(self.ledger.times.values()) >= faults)
            if record.done:
                self._compare(record)
            self.place.delete(f"runs/{record.name}")
            self._before = []
            self.ledger.runs += 1
            self.ledger.steps += record.steps
        self.ledger.seconds = time.monotonic() - started
        return self.ledger

    def _is_hopeless(self) -> bool:
        return len(self.ledger.violations) >= MOST_VIOLATIONS

    def _leg(self, record: RunRecord, harmless: bool) -> None:
        self._legs += 1
        leg = Leg(self, record, self._legs, random.Random(f"{self._seed}/{self._legs}"))
        leg.every_step = leg.chance.random() >= EPOCH_SHARE
        faults = [] if harmless else self._draw(leg.chance)
        for fault in faults:
            fault.plan(leg)
        try:
            leg.start()
            for fault in faults:
                fault.act(leg)
            if harmless:
                leg.finish()
            leg.wind_up()
        finally:
            leg.clean()
        began = self._judge(leg)
        for fault in faults:
            fault.settle(leg)
        record.allowed = leg.after if began else leg.after.or_else(record.allowed)
        self._write_down(leg, began)

    def _draw(self, chance: random.Random) -> list[Fault]:
        """A trouble or none, the end of the session, and damage afterwards or none."""
        end = self._deal(ENDS)
        faults = [end]
        if not end.alone and chance.random() < TROUBLE_SHARE:
            faults.insert(0, self._deal(TROUBLES))
        if chance.random() < DAMAGE_SHARE:
            faults.append(self._deal(DAMAGES))
        return faults

    def _deal(self, kind: list[Fault]) -> Fault:
        """The next of a shuffled deck, so that all of a kind come equally often."""
        cards = self._decks.setdefault(id(kind), [])
        if not cards:
            fitting = [fault for fault in kind if self.place.name in fault.stores]
            cards += self._chance.sample(fitting, len(fitting))
        return cards.pop()

    def _judge(self, leg: Leg) -> bool:
        """Hold all sessions of a leg against the rules; returns whether one of them trained."""
        record = leg.record
        began = sorted((p for p in leg.processes if p.events("begin")), key=_begin)
        for process in leg.processes:
            if process not in began:
                leg.broken += record.judge(process, leg.allowed, float("inf"))
        for place, process in enumerate(began):
            until = min(map(_begin, began[place + 1 :]), default=float("inf"))
            leg.broken += record.judge(process, leg.allowed, until)
            for name in self._before if place == 0 else leg.hits:
                self.ledger.repeated[name] = max(self.ledger.repeated[name], record.repeated)
            record.allowed = Allowed()
        leg.broken += record.shared_tokens()
        return bool(began)

    def _write_down(self, leg: Leg, began: bool) -> None:
        ledger, ends = self.ledger, [outcome(process) for process in leg.processes]
        ledger.sessions += len(leg.processes)
        ledger.times.update(leg.hits)
        met = [(name, ends) for name in leg.hits if name not in _DAMAGE]
        # What is damaged between two sessions is met by the next one.
        met += [(name, ends[:1]) for name in self._before if name in _DAMAGE]
        for name, how in met:
            ledger.outcomes.setdefault(name, Counter()).update(how)
        kinds = [*self._before, *leg.hits]
        ledger.violations += [(kinds, leg.number, rule) for rule in leg.broken]
        self._before = leg.hits if began else kinds
        leg.record.bad_legs += bool(leg.broken)
        print(
            f"{self.place.name} leg {leg.number} of {leg.record.name}:"
            f" {'; '.join([*leg.hits, *leg.notes]) or 'no fault'} -> {', '.join(ends)}"
            f" at step {leg.record.reached}{''.join(f' !! {rule}' for rule in leg.broken)}",
            file=sys.stderr,
            flush=True,
        )

    def _compare(self, record: RunRecord) -> None:
        """Rule: a run that is done has the weights of the one that nobody disturbed."""
        record.look_at_leases()
        broken = record.shared_tokens()
        facts = json.loads(self.place.read(f"runs/{record.name}/model.json") or b"{}")
        weights = self.place.read(f"runs/{record.name}/model.safetensors") or b""
        if not hashlib.sha256(weights).hexdigest() == facts.get("sha256") == self._reference:
            broken.append(f"{record.name}: the weights are not those of an uninterrupted run")
        else:
            self.ledger.equal += 1
        self.ledger.violations += [(self._before, self._legs, rule) for rule in broken]


_DAMAGE = frozenset(fault.name for fault in DAMAGES)


def _begin(process: SessionProcess) -> float:
    return process.events("begin")[0]["at"]


def run(faults: dict[str, int], seed: int, folder: Path) -> dict[str, Ledger]:
    """Do so many faults to runs in each store, at the same time.

    Args:
        faults: how many, by store: folder and gcs.
        seed: draws the faults; when exactly they strike is up to the machine.
        folder: for everything that is written.
    """
    stop = threading.Event()
    import_once()
    dataset, reference = prepare(folder)

    def work(name: str) -> Ledger:
        with open_place(name, folder / name) as place:
            copy_dataset(dataset, place)
            return Part(place, folder / name, seed, reference).go(faults[name], stop)

    with ThreadPoolExecutor(len(faults)) as pool:
        try:
            return dict(zip(faults, pool.map(work, faults), strict=True))
        except BaseException:
            stop.set()  # else the other store's thread would be waited for, to its end
            raise


def prepare(folder: Path) -> tuple[Path, str]:
    """Build the dataset and train on it undisturbed; returns its folder and the weights' hash."""
    building = FORKED.Process(target=_build_dataset, args=(folder,))
    building.start()
    building.join()
    place = FolderPlace(folder / "reference")
    part = Part(place, folder / "undisturbed", 0, "")
    record = RunRecord("whole", place)
    leg = Leg(part, record, 0, random.Random(0))
    leg.start()
    leg.finish()
    leg.clean()
    if leg.process.exit_code != 0:
        raise RuntimeError(f"the undisturbed run failed: {leg.process.text('errors')}")
    facts = json.loads(place.read("runs/whole/model.json") or b"")
    return place.folder / "datasets" / DATASET, facts["sha256"]


def _build_dataset(folder: Path) -> None:
    """In a process of its own: the harness itself does without torch."""
    from relaydet.config import MergeConfig
    from relaydet.data.demo import write_demo
    from relaydet.jobs.merge import merge

    street, search, _ = write_demo(folder / "scenes", sizes=(14, 6, 2))
    store = str(folder / "reference")
    merge(MergeConfig(DATASET, (street, search), ("person",), store), say=lambda _: None)
