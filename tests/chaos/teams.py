"""Runs of a fleet that teams of one to four ranks train in turn, with harm done to every team.

`python tests/chaos/teams.py --legs 16 --seed 4 --out FILE`. In each leg `relaydet fleet` is started
with another number of ranks, sometimes twice at once; then something happens to it. What must hold:
steps are never lost but for those since the last checkpoint, nothing is left running, no run is
trained by two, each is finished once, and its first losses are those of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

RUNS = ("first", "second")
EPOCHS, STEPS, BATCH = 6, 30, 4
SIZES = (1, 2, 2, 3, 3, 4)
"""Ranks of a team, to draw from."""
LONGEST_SECONDS = 120.0
MOST_LEGS = 60
SETTLE_SECONDS = 20.0
"""What a fault may take until it shows: a rank that hangs is waited for."""
COMPARED, TOLERANCE = 6, 0.02
"""Steps whose losses are compared, and how. Ranks add up in another order, and training makes more
of it from step to step: two undisturbed processes, of one thread and of two, are 0.1 % apart after
6 steps, 9 % after 11 and 47 % after 25."""


@dataclass
class Outcome:
    """What came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    ranks: Counter[int] = field(default_factory=Counter)
    """How many teams had so many ranks."""
    legs: int = 0
    broken: list[str] = field(default_factory=list)
    """Rules that did not hold."""


class Session:
    """One `relaydet fleet`, with all processes that come of it."""

    def __init__(self, store: Path, cache: Path, ranks: int) -> None:
        self.ranks, self.cache = ranks, cache
        command = [sys.executable, "-m", "relaydet", "fleet", "--store", str(store)]
        self._output = (cache.parent / f"{cache.name}.log").open("wb")
        self.process = subprocess.Popen(
            [*command, "--device", "cpu", "--gpus", str(ranks)],
            env={**os.environ, "RELAYDET_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def pids(self) -> dict[int, int]:
        """Process id by rank, of the team that is at work."""
        files = sorted(self.cache.glob("ranks/*/events.jsonl"), key=lambda f: f.stat().st_mtime)
        found: dict[int, int] = {}
        for text in files[-1].read_text().splitlines() if files else ():
            started = json.loads(text).get("started")
            if started:
                found[started["rank"]] = started["pid"]
        return found or {0: self.process.pid}

    def all_gone(self) -> bool:
        return self.process.poll() is not None and not any(map(is_alive, self.pids().values()))


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _one_rank(number: int) -> Callable[[Session, random.Random], None]:
    return lambda s, chance: send(chance.choice(list(s.pids().values())), number)


FAULTS: dict[str, Callable[[Session, random.Random], None]] = {
    "SIGKILL of a rank": _one_rank(signal.SIGKILL),
    "SIGSTOP of a rank": _one_rank(signal.SIGSTOP),
    "SIGTERM of a rank": _one_rank(signal.SIGTERM),
    "SIGKILL of the session": lambda s, _: send(s.process.pid, signal.SIGKILL),
    "SIGINT of the session": lambda s, _: send(s.process.pid, signal.SIGINT),
    "SIGTERM of the session": lambda s, _: send(s.process.pid, signal.SIGTERM),
    "two sessions at once": lambda s, _: None,
}


def run(legs: int, seed: int, folder: Path) -> Outcome:
    """Do so much harm, and then let the runs come to their end.

    Args:
        legs: sessions, or pairs of them, that something is done to.
        seed: of everything that is drawn.
        folder: for all files.
    """
    outcome, chance = Outcome(), random.Random(seed)
    store = prepare(folder)
    reference = losses(undisturbed(folder), RUNS[0])
    deck: list[str] = []
    while not all(is_done(store, name) for name in RUNS) and outcome.legs < MOST_LEGS:
        if not deck:
            deck = chance.sample(sorted(FAULTS), len(FAULTS))
        fault = deck.pop() if outcome.legs < legs else ""
        one_leg(store, folder, fault, chance, outcome)
    for name in RUNS:
        judge_end(store, name, reference, outcome)
    return outcome


def one_leg(store: Path, folder: Path, fault: str, chance: random.Random, outcome: Outcome) -> None:
    outcome.legs += 1
    before = {name: step_of(store, name) for name in RUNS}
    sessions = [
        Session(store, folder / f"cache-{outcome.legs}-{n}", chance.choice(SIZES))
        for n in range(2 if fault == "two sessions at once" else 1)
    ]
    outcome.ranks.update(session.ranks for session in sessions)
    goal = sum(before.values()) + chance.randint(1, 4)

    def far_enough() -> bool:
        far = sum(step_of(store, name) for name in RUNS) >= goal
        return (bool(fault) and far) or all(s.process.poll() is not None for s in sessions)

    if not wait(far_enough):
        outcome.broken.append(f"leg {outcome.legs}: no step was made in {LONGEST_SECONDS:g} s")
    if fault:
        outcome.faults[fault] += 1
        reached = {name: step_of(store, name) for name in RUNS}
        harmed = [pid for session in sessions for pid in session.pids().values()]
        FAULTS[fault](sessions[0], chance)
        if fault == "two sessions at once":
            for session in sessions:
                send(session.process.pid, signal.SIGTERM)
        if fault == "SIGSTOP of a rank" and sessions[0].ranks == 1:
            send(sessions[0].process.pid, signal.SIGKILL)  # nobody else would notice
        wait(lambda: not any(map(is_alive, harmed)), SETTLE_SECONDS)
        for session in sessions:
            send(session.process.pid, signal.SIGTERM)  # a fleet goes on, with this run or another
        if not wait(lambda: all(session.all_gone() for session in sessions)):
            outcome.broken.append(f"leg {outcome.legs}, {fault}: something is left running")
            end(sessions)
        for name in RUNS:
            if checkpoint_of(store, name) < reached[name] - 1:
                outcome.broken.append(f"leg {outcome.legs}, {fault}: steps of {name} were lost")
    print(
        f"leg {outcome.legs}: {', '.join(str(s.ranks) for s in sessions)} ranks,"
        f" {fault or 'no fault'} -> {', '.join(f'{n} at {checkpoint_of(store, n)}' for n in RUNS)}",
        file=sys.stderr,
        flush=True,
    )


def end(sessions: list[Session]) -> None:
    for session in sessions:
        for pid in [session.process.pid, *session.pids().values()]:
            send(pid, signal.SIGKILL)
        session.process.wait()


def judge_end(store: Path, name: str, reference: dict[int, float], outcome: Outcome) -> None:
    if not is_done(store, name):
        outcome.broken.append(f"{name} was never finished")
        return
    lines = [json.loads(line) for line in file(store, name, "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    # A kill between a checkpoint and the log that tells of it costs a line.
    if steps != sorted(set(steps)) or steps[-1] != STEPS:
        outcome.broken.append(f"{name}: the log has the steps {steps}")
    first = [line for line in lines if line["step"] <= COMPARED]
    apart = max(abs(line["loss"] / reference[line["step"]] - 1) for line in first)
    if apart > TOLERANCE:
        outcome.broken.append(f"{name}: losses are up to {apart:.1%} from the undisturbed ones")
    tokens = [int(path.stem) for path in (store / f"runs/{name}/leases").glob("*.json")]
    if sorted(tokens) != list(range(1, len(tokens) + 1)):
        outcome.broken.append(f"{name}: the leases' tokens are {sorted(tokens)}")


def prepare(folder: Path) -> Path:
    """A store with a tiny dataset, and two runs on the fleet's list."""
    from relaydet.config import MergeConfig
    from relaydet.data.demo import write_demo
    from relaydet.jobs.merge import merge

    store = folder / "store"
    street, search, _ = write_demo(folder / "scenes", sizes=(14, 6, 2))
    merge(MergeConfig("tiny", (street, search), ("person",), str(store)), say=lambda _line: None)
    (store / "fleets").mkdir()
    (store / "fleets/fleet.json").write_text(json.dumps([described(name) for name in RUNS]))
    return store


def described(name: str) -> dict[str, object]:
    """A run; with one image a pass, its norms see the same on any number of ranks."""
    return {
        "run": name,
        "dataset": "tiny",
        "model": "small",
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "micro_batch": 1,
        "image_size": 64,
        "precision": "float32",
        "workers": 0,
        "checkpoint_minutes": 1e-6,
        "answer_minutes": 0.15,
    }


def undisturbed(folder: Path) -> Path:
    """A store in which one process has trained the first run."""
    from relaydet.config import TrainConfig
    from relaydet.jobs.train import train

    asked = {**described(RUNS[0]), "store": str(folder / "store"), "device": "cpu"}
    train(TrainConfig(**{**asked, "run": "undisturbed"}), say=lambda _line: None)
    (folder / "calm/runs").mkdir(parents=True)
    (folder / "store/runs/undisturbed").rename(folder / f"calm/runs/{RUNS[0]}")
    return folder / "calm"


def file(store: Path, name: str, part: str) -> Path:
    return store / "runs" / name / part


def losses(store: Path, name: str) -> dict[int, float]:
    """By step."""
    lines = map(json.loads, file(store, name, "log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def status_of(store: Path, name: str) -> dict:
    path = file(store, name, "status.json")
    return json.loads(path.read_text()) if path.exists() else {}


def step_of(store: Path, name: str) -> int:
    return int(status_of(store, name).get("step", 0))


def checkpoint_of(store: Path, name: str) -> int:
    found = file(store, name, "checkpoints").glob("step-*.json")
    return max((int(path.stem.split("-")[1]) for path in found), default=0)


def is_done(store: Path, name: str) -> bool:
    return status_of(store, name).get("state") == "done"


def wait(condition: Callable[[], bool], seconds: float = LONGEST_SECONDS) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def as_markdown(outcome: Outcome, legs: int, seed: int) -> str:
    """What took place, for benchmarks/."""
    from chaos.table import commit_and_versions

    ranks = ", ".join(f"{count} of {size}" for size, count in sorted(outcome.ranks.items()))
    lines = [
        "# Chaos with teams: a fleet's runs under one to four ranks",
        "",
        f"`python tests/chaos/teams.py --legs {legs} --seed {seed}`, {commit_and_versions()}",
        "",
        f"{outcome.legs} legs over {len(RUNS)} runs of {STEPS} steps; teams by ranks: {ranks}.",
        "",
        "| fault | times |",
        "|---|---:|",
        *(f"| {fault} | {times} |" for fault, times in sorted(outcome.faults.items())),
        "",
        f"Rules broken: {len(outcome.broken)}.",
        *(f"- {rule}" for rule in outcome.broken),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run it; returns 1 where a rule was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--legs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(asked.legs, asked.seed, Path(folder))
    table = as_markdown(outcome, asked.legs, asked.seed)
    print(table)
    if asked.out:
        asked.out.write_text(table)
    return int(bool(outcome.broken))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main())
