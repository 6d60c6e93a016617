"""One real session of a run: `relaydet.jobs.train.train` in a process of its own.

The harness forks it from a server that has the imports done; `python tests/chaos/session.py
SPEC.json` runs one by hand. The library knows nothing of this: everything here goes around it, to
shorten its waits, to write down what it does, and to do harm to it at a chosen instant.

What it does is appended to the file of events, a line of JSON each, which survives a SIGKILL.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEASE_SECONDS = 3.0
"""How long the lease lives here: a session that is stopped for longer loses it."""

SHORT_WAITS = {
    "relaydet.training.saver": {"FIRST_WAIT_SECONDS": 0.2, "LONGEST_WAIT_SECONDS": 0.5},
    "relaydet.training.session": {"FINISH_SECONDS": 12.0, "LEAST_FINISH_SECONDS": 3.0},
    "relaydet.storage.gcs": {"TRY_SECONDS": 2.0, "ANSWER_SECONDS": 5.0},
}

Event = Callable[..., None]


def main(spec_file: str) -> None:
    """Run the session that a file describes; exits as the command line does."""
    spec = json.loads(Path(spec_file).read_text())
    _become_a_session(spec)
    event = _event_writer(Path(spec["events"]))
    event("started", pid=os.getpid())
    import torch

    from relaydet.config import TrainConfig
    from relaydet.console import say
    from relaydet.errors import RelayError
    from relaydet.jobs import train

    torch.set_num_threads(1)
    _shorten_waits()
    _move_to_machine(spec["machine"])
    _write_down(event)
    _do_harm(spec, event)
    try:
        result = train.train(TrainConfig(**spec["config"]), say=say)
    except RelayError as error:
        event("refused", kind=type(error).__name__, error=str(error))
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    event("result", state=result.state, reason=result.reason, step=result.step)


def _become_a_session(spec: dict[str, Any]) -> None:
    """A group of its own, so that its loader processes die with it, and files for its output."""
    if os.getpgrp() != os.getpid():
        os.setsid()
    for number, name in ((1, "output"), (2, "errors")):
        file = os.open(spec[name], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(spec["environment"])
    # Forked from a server, it would start its loader processes from another one, without imports.
    multiprocessing.set_start_method(spec["start_method"], force=True)


def _event_writer(path: Path) -> Event:
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)

    def event(name: str, **facts: Any) -> None:
        line = json.dumps({"event": name, "at": time.time(), **facts})
        os.write(file, f"{line}\n".encode())

    return event


def _shorten_waits() -> None:
    from google.cloud.storage import retry

    replace(retry, "DEFAULT_RETRY", lambda usual: usual.with_delay(0.05, 0.3))
    for module, values in SHORT_WAITS.items():
        for name, value in values.items():
            replace(importlib.import_module(module), name, lambda _, new=value: new)


def _move_to_machine(name: str) -> None:
    """Whether a lease's holder has died can be told on one machine only: this names it."""
    import platform

    replace(platform, "node", lambda _: lambda: name)


def _write_down(event: Event) -> None:
    """Tell of the lease, of each step, and of each checkpoint made, published and loaded."""
    import torch

    from relaydet.jobs import train
    from relaydet.training import saver, session, steps

    making: dict[str, Any] = {}

    def acquire(original: Callable, *args: Any, **more: Any) -> Any:
        lease = original(*args, **more, life=LEASE_SECONDS)
        event("lease", token=lease.holder.token, owner=lease.holder.owner)
        return lease

    def pack(
        original: Callable, folder: Path, step: int, lineage: Any, *rest: Any, **more: Any
    ) -> Any:
        making.update(step=step, token=lineage.token, owner=lineage.owner)
        return original(folder, step, lineage, *rest, **more)

    def save(original: Callable, state: Any, buffer: Any, *args: Any, **more: Any) -> None:
        original(state, buffer, *args, **more)
        # Before a byte is on the disk: a kill right after that must not hide it.
        event("packing", **making, sha256=hashlib.sha256(buffer.getbuffer()).hexdigest())

    def publish(original: Callable, store: Any, run: str, packed: Any) -> None:
        original(store, run, packed)
        event("published", **{name: packed.manifest[name] for name in ("step", "token", "owner")})

    def load(original: Callable, file: Any, *args: Any, **more: Any) -> Any:
        event("loaded", sha256=hashlib.sha256(file.getbuffer()).hexdigest())
        return original(file, *args, **more)

    def go(original: Callable, self: Any) -> Any:
        event("begin", step=self.step, in_store=self.in_store)
        return original(self)

    def train_steps(original: Callable, **more: Any) -> Any:
        for done in original(**more):
            event("trained", step=done.step)
            yield done

    around(train, "acquire", acquire)
    around(saver, "pack", pack)
    around(saver, "publish", publish)
    around(torch, "save", save)
    around(torch, "load", load)
    around(session.Session, "go", go)
    around(steps, "train_steps", train_steps)


def _do_harm(spec: dict[str, Any], event: Event) -> None:
    from chaos import inside

    for fault in spec["faults"]:
        inside.install(fault, Path(spec["store_folder"]), Path(spec["cache"]), event)


def around(owner: Any, name: str, wrapper: Callable) -> None:
    """Put a function around another one, which it gets as its first argument."""
    replace(owner, name, lambda original: functools.partial(wrapper, original))


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Exchange an attribute; fails where the library has it no more."""
    made = make(getattr(owner, name))
    if isinstance(made, functools.partial) and isinstance(owner, type):
        made = _as_method(made)
    setattr(owner, name, made)


def _as_method(function: functools.partial) -> Callable:
    """A partial object in a class would not be given the instance."""

    def method(*args: Any, **more: Any) -> Any:
        return function(*args, **more)

    return method


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    main(sys.argv[1])
