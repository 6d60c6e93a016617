"""Making bad files out of good ones: a pure function of the random generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

TOKENS = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"4294967295",
    b"9" * 5000,
    b"[" * 5000,
    b"<a>" * 500,
    b"&#0;",
    b"../../x",
    b"\na: &a [1]\nb: &b [*a, *a]\n",
    b"PK\5\6",
    b"\xff" * 8,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    5e-324,
    1e308,
    2**63,
    2**64,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "../x",
    "\0",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [None] * 3,
    [1, 2, 3, 4],
    [[[]]],
    {"id": 1},
)


def damaged(seeds: Sequence[bytes], random: Random) -> bytes:
    """One of the seeds with a few things wrong with it; one in fifty is left as it is."""
    data = random.choice(seeds)
    if random.random() < 0.02:
        return data
    if data[:1] in (b"{", b"[") and random.random() < 0.7:
        changed = _other_json(data, random)
        if changed is not None:
            return changed
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        data = random.choice(BYTEWISE)(data, seeds, random)
    return data


def _other_json(data: bytes, random: Random) -> bytes | None:
    """JSON of other values at a few places; None where it is no JSON."""
    lines = data.splitlines() if data[:1] == b"{" and b"}\n{" in data else [data]
    place = random.randrange(len(lines))
    try:
        content = json.loads(lines[place])
    except ValueError:
        return None
    for _ in range(random.choice((1, 1, 2, 4))):
        content = _with_other(content, random)
    lines[place] = json.dumps(content).encode()
    return b"\n".join(lines)


def _with_other(content: Any, random: Random) -> Any:
    """The content with one value somewhere in it replaced, removed or doubled."""
    if not isinstance(content, dict | list) or not content or random.random() < 0.1:
        return random.choice(VALUES)
    if isinstance(content, dict):
        key = random.choice(list(content))
        if random.random() < 0.1:
            return {k: v for k, v in content.items() if k != key}
        if random.random() < 0.1:
            return {**content, random.choice(("", "id", "x", "\0", "source")): content[key]}
        return {**content, key: _with_other(content[key], random)}
    place = random.randrange(len(content))
    if random.random() < 0.1:
        return [*content, content[place]]
    return [*content[:place], _with_other(content[place], random), *content[place + 1 :]]


def _flip(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 4, 30)) if changed else 0):
        changed[random.randrange(len(changed))] = random.choice((0, 1, 127, 128, 255, 32, 34, 60))
    return bytes(changed)


def _flip_early(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    """Headers stand at the start, or at the end of a zip."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 3)) if changed else 0):
        place = min(int(random.expovariate(1 / 60)), len(changed) - 1)
        changed[place if random.random() < 0.6 else -1 - place] = random.randrange(256)
    return bytes(changed)


def _cut(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:start] if random.random() < 0.5 else data[:start] + data[end:]


def _insert(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + random.choice(TOKENS) + data[place + random.choice((0, 0, 1, 4)) :]


def _repeat(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    piece = data[start : start + random.choice((1, 10, 200))]
    return data[:start] + piece * random.choice((2, 5, 1000)) + data[start:]


def _splice(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    other = random.choice(seeds)
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _number(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    """Four or eight bytes somewhere say another length."""
    place = random.randrange(len(data) + 1)
    size, order = random.choice((2, 4, 8)), random.choice(("little", "big"))
    value = random.choice((0, 1, 2**31 - 1, 2**31, 2**63, len(data), 2 ** (8 * size) - 1))
    number = (value % 2 ** (8 * size)).to_bytes(size, order)  # type: ignore[arg-type]
    return data[:place] + number + data[place + size :]


BYTEWISE = (_flip, _flip, _flip_early, _flip_early, _cut, _insert, _repeat, _splice, _number)
