"""Harm that a session does to itself: a SIGKILL at an exact place, a disk that is full or gone.

A fault is a dict: "kind" is a name in `_KINDS`, "label" is told when it takes place, and the rest
goes to that function.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import os
import pathlib
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from chaos.session import Event, around, replace

Condition = Callable[..., bool]
Tell = Callable[[], None]


def install(fault: dict[str, Any], store: Path, cache: Path, event: Event) -> None:
    """Make a fault happen later on in this process."""
    details = {name: value for name, value in fault.items() if name not in ("kind", "label")}
    tell = functools.partial(event, "fault", label=fault["label"])
    _KINDS[fault["kind"]](store=store, cache=cache, tell=tell, **details)


def _kill(point: str, nth: int, cache: Path, tell: Tell, **_: Any) -> None:
    """SIGKILL at the n-th time that a point is reached."""

    def act() -> None:
        tell()
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "half a pack":
        _at(Path, "write_bytes", nth, lambda path, data: _half(path, data, act), _below(cache))
    else:
        _at_point(point, nth, act)


def _stop(point: str, nth: int, tell: Tell, **_: Any) -> None:
    """SIGSTOP at the n-th time that a point is reached; somebody else has to wake it."""

    def act() -> None:
        tell()
        os.kill(os.getpid(), signal.SIGSTOP)

    _at_point(point, nth, act)


def _at_point(point: str, nth: int, act: Callable[[], None]) -> None:
    after = point.startswith("after ")
    for owner, name, condition in _points()[point.removeprefix("after ")]:
        _at(owner, name, nth, lambda *_: act(), condition, after)


def _points() -> dict[str, list[tuple[Any, str, Condition]]]:
    """Places that a session passes: whose function, and for which arguments."""
    import torch

    from relaydet.storage.gcs import GcsStore
    from relaydet.storage.local import LocalStore
    from relaydet.training import saver

    def named(name: str, ending: str, part: str) -> list[tuple[Any, str, Condition]]:
        def condition(_store: Any, file: str, *_: Any) -> bool:
            return part in file and file.endswith(ending)

        return [(store, name, condition) for store in (LocalStore, GcsStore)]

    def always(*_: Any) -> bool:
        return True

    return {
        "torch.save": [(torch, "save", always)],
        "fsync": [(os, "fsync", always)],
        "link": [(os, "link", always)],
        "rename": [(Path, "replace", always)],
        "tidy": [(saver, "tidy", always)],
        "create of a manifest": named("create", ".json", "/checkpoints/"),
        "create of a .pt": named("create", ".pt", "/checkpoints/"),
        "delete": named("delete", "", "/checkpoints/"),
        "write of status.json": named("write", "status.json", ""),
        "write of the weights": named("write", "model.safetensors", ""),
        "write of model.json": named("write", "model.json", ""),
    }


def _errors(
    number: int, everything: bool, first: int, seconds: float, store: Path, tell: Tell, **_: Any
) -> None:
    """An error of the system, from the first so many calls on, for so many seconds."""

    def fail(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    _hook_folder(store, _window(fail, first, seconds, tell), everything)


def _slow(pause: float, first: int, seconds: float, store: Path, tell: Tell, **_: Any) -> None:
    """Every call for the store takes a while."""
    wait = _window(lambda _: time.sleep(pause), first, seconds, tell)
    _hook_folder(store, wait, everything=False)


def _cache_full(first: int, seconds: float, cache: Path, tell: Tell, **_: Any) -> None:
    """No room for checkpoints on this machine's own disk."""

    def fail(path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    meet = _window(fail, first, seconds, tell)

    def write_bytes(original: Callable, path: Path, data: bytes) -> int:
        if path.is_relative_to(cache):
            meet(str(path))
        return original(path, data)

    around(Path, "write_bytes", write_bytes)


def _cache_read_only(first: int, seconds: float, cache: Path, tell: Tell, **_: Any) -> None:
    """This machine's own disk takes nothing, and lets nothing be removed."""

    def fail(path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    meet = _window(fail, first, seconds, tell)

    def refuse(original: Callable, path: Path, *args: Any, **more: Any) -> Any:
        if path.is_relative_to(cache):
            meet(str(path))
        return original(path, *args, **more)

    for name in ("write_bytes", "replace", "unlink", "mkdir"):
        around(Path, name, refuse)


def _clock(hours: float, tell: Tell, **_: Any) -> None:
    """Wall clocks are wrong by some hours; how fast they go is right."""
    from relaydet.storage import lease
    from relaydet.training import run_files

    class Wrong(datetime):
        @classmethod
        def now(cls, zone: Any = None) -> datetime:
            return datetime.now(zone) + timedelta(hours=hours)

    for module in (lease, run_files):
        replace(module, "datetime", lambda _: Wrong)
    tell()


def _stdout_closed(nth: int, tell: Tell, **_: Any) -> None:
    """Whoever read the output is gone, as after `| head` or with a closed terminal."""

    def act() -> None:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
        os.close(writing)
        tell()

    _at_point("torch.save", nth, act)


def _shared_memory(size: int, tell: Tell, **_: Any) -> None:
    """A /dev/shm too small for a batch, as in a container; only where this user may mount."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size}".encode()
    steps = (
        lambda: libc.unshare(_NEW_MOUNTS),
        lambda: libc.mount(b"none", b"/", None, _PRIVATE, None),
        lambda: libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options),
    )
    if all(step() == 0 for step in steps):
        tell()


_NEW_MOUNTS, _PRIVATE = 0x20000, 0x4000 | 0x40000
"""CLONE_NEWNS of unshare(2); MS_REC | MS_PRIVATE of mount(2)."""


def _empty(nth: int, store: Path, tell: Tell, **_: Any) -> None:
    """A checkpoint that the mount takes without a word, and of which it keeps no byte."""

    def act(_source: Any, target: Any) -> None:
        tell()
        os.truncate(target, 0)

    def is_pt(_source: Any, target: Any) -> bool:
        return Path(target).is_relative_to(store) and str(target).endswith(".pt")

    _at(os, "link", nth, act, is_pt, after=True)


_KINDS = {
    "kill": _kill,
    "stop": _stop,
    "errors": _errors,
    "slow": _slow,
    "cache full": _cache_full,
    "cache read-only": _cache_read_only,
    "clock": _clock,
    "stdout closed": _stdout_closed,
    "shared memory": _shared_memory,
    "empty": _empty,
}


def _at(
    owner: Any,
    name: str,
    nth: int,
    act: Callable[..., None],
    condition: Condition,
    after: bool = False,
) -> None:
    """Act at the n-th call of a function, before it or after it."""
    calls = itertools.count(1)

    def replaced(original: Callable, *args: Any, **more: Any) -> Any:
        now = condition(*args) and next(calls) == nth
        if now and not after:
            act(*args)
        result = original(*args, **more)
        if now and after:
            act(*args)
        return result

    around(owner, name, replaced)


def _half(path: Path, data: bytes, act: Callable[[], None]) -> None:
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    act()


def _below(folder: Path) -> Condition:
    return lambda path, *_: path.is_relative_to(folder)


def _window(
    meet: Callable[[str], None], first: int, seconds: float, tell: Tell
) -> Callable[[str], None]:
    """Something that happens to each call for a while, from the first so many on."""
    calls = itertools.count(1)
    until: list[float] = []

    def check(path: str) -> None:
        if not until and next(calls) >= first:
            until.append(time.monotonic() + seconds)
            tell()
        if until and time.monotonic() < until[0]:
            meet(path)

    return check


def _hook_folder(store: Path, check: Callable[[str], None], everything: bool) -> None:
    """Go between the library and a folder: where it writes, or at everything it does there."""

    def hook(owner: Any, name: str, path_of: Callable[..., Any]) -> None:
        def replaced(original: Callable, *args: Any, **more: Any) -> Any:
            path = str(path_of(*args, **more))
            if path == str(store) or path.startswith(f"{store}/"):
                check(path)
            return original(*args, **more)

        around(owner, name, replaced)

    hook(tempfile, "mkstemp", lambda *_, dir, **__: dir)
    hook(os, "fsync", _path_of_file)
    hook(os, "link", lambda _source, target: target)
    hook(Path, "replace", lambda _source, target: target)
    if everything:
        for name in ("stat", "iterdir", "read_bytes", "open", "unlink", "mkdir"):
            hook(pathlib.Path, name, lambda path, *_, **__: path)


def _path_of_file(number: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/self/fd/{number}").readlink())
    return ""
