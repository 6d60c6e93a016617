"""What happens between two sessions: files are torn, a machine is lost."""

from __future__ import annotations

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


class LeaseTorn(Fault):
    """lease.json is cut short; the tokens in leases/ tell what it told."""

    def settle(self, leg: Leg) -> None:
        name = f"runs/{leg.record.name}/lease.json"
        data = leg.part.place.read(name)
        if data:
            leg.part.place.write(name, _cut(data, leg.chance))
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
    LeaseTorn("lease.json torn"),
]
