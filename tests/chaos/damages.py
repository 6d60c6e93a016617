"""What happens between two sessions: files are torn, a machine is lost."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos.faults import Fault
from chaos.leg import Leg


@dataclass(frozen=True)
class Torn:
    """The newest checkpoint and the one before."""

    pt: str
    manifest: str
    pt_bytes: bytes
    manifest_bytes: bytes
    previous_pt: bytes


class Tear(Fault):
    """The newest checkpoint in the store is damaged, if another one stands behind it."""

    def __init__(self, name: str, tear: Callable[[Any, Torn, random.Random], None]) -> None:
        super().__init__(name)
        self._tear = tear

    def settle(self, leg: Leg) -> None:
        place, record = leg.part.place, leg.record
        there = record.intact()
        if record.done or len(there) < 2:
            return
        token, step, name = there[0]
        files = [f"{name}.pt", f"{name}.json", f"{there[1][2]}.pt"]
        self._tear(
            place, Torn(*files[:2], *(place.read(file) or b"" for file in files)), leg.chance
        )
        manifest = place.read(f"{name}.json")
        record.published.discard((token, step))
        record.torn = None if manifest is None else (token, step)  # nobody can name it without
        record.torn_manifests.add(manifest or b"")
        leg.after.repetition = None if leg.is_behind() else 2
        leg.hit(self.name)


class MachineLost(Fault):
    """What this machine kept is gone; another one goes on, with other loader processes."""

    def settle(self, leg: Leg) -> None:
        shutil.rmtree(leg.part.cache, ignore_errors=True)
        leg.part.machine += 1
        leg.after.repetition = None if leg.is_behind() else 2
        leg.hit(self.name)


class SmallFile(Fault):
    """A small file of the run is damaged; the checkpoints' manifests tell what it told."""

    def __init__(
        self, name: str, file: str, damage: Callable[[bytes, random.Random], bytes]
    ) -> None:
        super().__init__(name)
        self._file, self._damage = file, damage

    def settle(self, leg: Leg) -> None:
        place, run = leg.part.place, leg.record.name
        names = [n for n in place.names(f"runs/{run}") if n == f"runs/{run}/{self._file}"]
        if self._file == "leases":
            names = place.names(f"runs/{run}/leases")[-1:]
        data = place.read(names[0]) if names else None
        if data and leg.record.intact() and not leg.record.done:
            place.write(names[0], self._damage(data, leg.chance))
            leg.hit(self.name)


def _flip(data: bytes, chance: random.Random) -> bytes:
    torn = bytearray(data)
    torn[chance.randrange(len(torn))] ^= 1 << chance.randrange(8)
    return bytes(torn)


def _flip_fact(data: bytes, chance: random.Random) -> bytes:
    """A flip in one of the lines by which a session decides something, name or value."""
    lines = data.splitlines(keepends=True)
    facts = [number for number, line in enumerate(lines) if line.split(b'"')[1:2] in _FACTS]
    number = chance.choice(facts)
    lines[number] = _flip(lines[number], chance)
    return b"".join(lines)


_FACTS = [[b"token"], [b"step"], [b"resumed_from"], [b"frozen"], [b"dataset_sha256"]]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _other_types(data: bytes, chance: random.Random) -> bytes:
    """Valid JSON in which one value has another type."""
    facts = json.loads(data)
    if isinstance(facts, dict) and facts:
        facts[chance.choice(sorted(facts))] = chance.choice(("text", [1], {}, None, -1, 1e300))
    return json.dumps(facts).encode()


DAMAGES: list[Fault] = [
    Tear("torn: .pt truncated", lambda p, t, c: p.write(t.pt, _cut(t.pt_bytes, c))),
    Tear("torn: .pt all zeros", lambda p, t, c: p.write(t.pt, bytes(len(t.pt_bytes)))),
    Tear("torn: .pt empty", lambda p, t, c: p.write(t.pt, b"")),
    Tear("torn: a bit of .pt flipped", lambda p, t, c: p.write(t.pt, _flip(t.pt_bytes, c))),
    Tear(
        "torn: a bit of the manifest flipped",
        lambda p, t, c: p.write(t.manifest, _flip(t.manifest_bytes, c)),
    ),
    Tear(
        "torn: a bit of a fact in the manifest flipped",
        lambda p, t, c: p.write(t.manifest, _flip_fact(t.manifest_bytes, c)),
    ),
    Tear(
        "torn: manifest truncated", lambda p, t, c: p.write(t.manifest, _cut(t.manifest_bytes, c))
    ),
    Tear("torn: manifest gone", lambda p, t, c: p.delete(t.manifest)),
    Tear("reordered: manifest without its .pt", lambda p, t, c: p.delete(t.pt)),
    Tear("reordered: manifest with the .pt before", lambda p, t, c: p.write(t.pt, t.previous_pt)),
    MachineLost("the machine is lost, with what it kept"),
    SmallFile("lease.json torn", "lease.json", _cut),
    SmallFile("a bit of lease.json flipped", "lease.json", _flip),
    SmallFile("the newest token's file torn", "leases", _cut),
    SmallFile("config.json torn", "config.json", _cut),
    SmallFile("a bit of config.json flipped", "config.json", _flip),
    SmallFile("status.json torn", "status.json", _cut),
    SmallFile("a bit of status.json flipped", "status.json", _flip),
    SmallFile("status.json of other types", "status.json", _other_types),
    SmallFile("log.jsonl torn", "log.jsonl", _cut),
    SmallFile("a bit of log.jsonl flipped", "log.jsonl", _flip),
]
