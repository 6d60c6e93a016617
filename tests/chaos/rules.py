"""What must hold whatever is done to a run, and the record by which it is judged."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chaos.places import Place, checkpoints_of
from chaos.process import SessionProcess

Age = tuple[int, int]
"""Token and step of a checkpoint: the higher the newer."""


@dataclass
class Allowed:
    """What may come of faults."""

    refusal: bool = False
    """A session may end with a RelayError: the store is away, or the run is another's."""
    repetition: int | None = 1
    """Checkpoint intervals that the next session may repeat; None where only the last published
    checkpoint counts."""

    def or_else(self, other: Allowed) -> Allowed:
        """What is allowed where both sets of faults took place."""
        both = (self.repetition, other.repetition)
        repetition = None if None in both else max(both)
        return Allowed(self.refusal or other.refusal, repetition)


@dataclass
class RunRecord:
    """What is known of one run."""

    name: str
    place: Place
    made: dict[str, Age] = field(default_factory=dict)
    """By SHA-256: every checkpoint that a session has made."""
    published: set[Age] = field(default_factory=set)
    """Those that the store has had, verified, and that no fault took."""
    torn: Age | None = None
    """The damaged checkpoint that the next session must name."""
    torn_manifests: set[bytes] = field(default_factory=set)
    owners: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By token: who was seen to hold it."""
    reached: int = 0
    """Step that the last session had reached."""
    interval: int = 1
    """Steps between its checkpoints."""
    allowed: Allowed = field(default_factory=Allowed)
    """What the faults so far allow to the next session."""
    repeated: int = 0
    """Steps that the last session repeated."""
    steps: int = 0
    """Optimizer steps trained, repeated ones included."""
    done: bool = False
    bad_legs: int = 0
    """Legs in which a rule was broken."""
    look_again: float = 0.0

    def manifests(self) -> dict[str, dict[str, Any]]:
        """What each manifest in the store says, by its name without ending; no torn ones."""
        found = {}
        for name in self.place.names(checkpoints_of(self.name)):
            data = self.place.read(name) if name.endswith(".json") else None
            if data and data not in self.torn_manifests:
                found[name.removesuffix(".json")] = json.loads(data)
        return found

    def intact(self) -> list[tuple[int, int, str]]:
        """(token, step, name) of the checkpoints that are as their manifests say, newest first."""
        found = []
        for name, manifest in self.manifests().items():
            data = self.place.read(f"{name}.pt")
            if data is not None and hashlib.sha256(data).hexdigest() == manifest["sha256"]:
                found.append((manifest["token"], manifest["step"], name))
        return sorted(found, reverse=True)

    def look(self) -> None:
        """See who has published."""
        if time.monotonic() < self.look_again:
            return
        self.look_again = time.monotonic() + self.place.look_seconds
        for manifest in self.manifests().values():
            self.owners[manifest["token"]].add(manifest["owner"])

    def look_at_leases(self) -> None:
        """See who has taken which token."""
        for name in self.place.names(f"runs/{self.name}/leases"):
            with suppress(ValueError, KeyError):  # a fault may have torn it
                holder = json.loads(self.place.read(name) or b"{}")
                self.owners[holder["token"]].add(holder["owner"])

    def shared_tokens(self) -> list[str]:
        """Rule: no two sessions publish under one token."""
        return [
            f"token {token} is of {' and '.join(sorted(owners))}"
            for token, owners in self.owners.items()
            if len(owners) > 1
        ]

    def judge(self, process: SessionProcess, allowed: Allowed, until: float) -> list[str]:
        """Take note of what an ended session did, and say which rules it broke.

        Args:
            process: the session.
            allowed: what the faults allow to this session.
            until: when the next one began, which cannot know what this one did later.
        """
        events = process.events()
        for event in events:
            if event["event"] == "packing":
                self.made[event["sha256"]] = (event["token"], event["step"])
            if event["event"] in ("packing", "published", "lease"):
                self.owners[event["token"]].add(event["owner"])
        broken = [*_bad_end(process, allowed), *self._bad_loads(events)]
        if process.events("begin"):
            broken += self._bad_start(process, events)
        self._remember(process, [event for event in events if event["at"] <= until])
        return broken

    def _bad_loads(self, events: list[dict[str, Any]]) -> list[str]:
        """Rule: nothing is loaded but what a session made, byte for byte."""
        loaded = {event["sha256"] for event in events if event["event"] == "loaded"}
        return [f"loaded {sha256[:12]}, which nobody made" for sha256 in loaded - set(self.made)]

    def _bad_start(self, process: SessionProcess, events: list[dict[str, Any]]) -> list[str]:
        """Rules: nothing published is lost, no more than an interval is repeated, and the torn
        checkpoint is named."""
        broken = []
        step = process.events("begin")[0]["step"]
        loaded = [self.made.get(e["sha256"], (0, 0)) for e in events if e["event"] == "loaded"]
        started = max((age for age in loaded if age[1] == step), default=(0, 0))
        newest = max(self.published, default=(0, 0))
        if started < newest:
            broken.append(f"started from (token, step) {started}, and {newest} was published")
        self.repeated = max(0, self.reached - step)
        most = self.allowed.repetition
        if most is not None and self.repeated > most * self.interval:
            broken.append(
                f"repeats {self.repeated} steps ({step} to {self.reached}), with a checkpoint every"
                f" {self.interval}, at most {most} of which may be lost"
            )
        if self.torn and self.torn not in loaded:  # the flipped bit may be one that says nothing
            name, output = self.torn[1], process.text("output")
            if f"step-{name:08d}" not in output and f"over step {name}:" not in output:
                broken.append(f"does not name step {name}, whose checkpoint was torn")
        self.torn = None
        return broken

    def _remember(self, process: SessionProcess, events: list[dict[str, Any]]) -> None:
        trained = [event["step"] for event in events if event["event"] == "trained"]
        began = [event["step"] for event in events if event["event"] == "begin"]
        self.steps += len(trained)
        self.published |= {
            (event["token"], event["step"]) for event in events if event["event"] == "published"
        }
        if began:
            self.reached, self.interval = max(began + trained), process.interval
        results = [event["state"] for event in events if event["event"] == "result"]
        self.done = self.done or results == ["done"]


def outcome(process: SessionProcess) -> str:
    """How a session ended: killed, paused, done, refused or broke down."""
    if process.exit_code is not None and process.exit_code < 0:
        return "killed"
    if process.exit_code == 2:
        return "refused"
    result = process.events("result")
    return result[0]["state"] if result and process.exit_code == 0 else "broke down"


def _bad_end(process: SessionProcess, allowed: Allowed) -> list[str]:
    """Rule: a session ends done, paused, or with a sentence where there is reason for one."""
    how, errors = outcome(process), process.text("errors")
    told = " ".join(errors.strip().splitlines()[-1:])
    if how == "killed":
        early = process.exit_code == -15 and not process.events("begin")
        return [] if process.killed or early else [f"ended by signal {-(process.exit_code or 0)}"]
    if how == "broke down" or "Traceback" in errors:
        return [f"exit code {process.exit_code}: {told}"]
    if how == "refused" and not allowed.refusal:
        return [f"refused to go on: {told}"]
    return []
