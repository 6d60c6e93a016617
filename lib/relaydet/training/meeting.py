"""How the ranks that `launch` or torchrun started meet, and part."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from relaydet.errors import RankLostError, RelayError
from relaydet.runtime.stop import StopRequest
from relaydet.training.notes import LOOK_SECONDS, Counts, has, leave
from relaydet.training.team import LINE_SECONDS, PREPARE_SECONDS, Team, first_line

JOIN_SECONDS = 600.0
"""How long ranks wait until all have come."""
FIRST_LINE_SECONDS = 5.0
"""After how long they say for the first time whom they wait for, where nobody may have started
those."""
MEETING_VARIABLE = "RELAYDET_MEETING"
"""The file over which ranks that `launch` started meet, in a folder that is the user's alone."""
_FOREIGN = "unset WORLD_SIZE, RANK and MASTER_ADDR to train alone"


@dataclass(frozen=True)
class _Place:
    """Which rank this is, and where the others are met."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    """How many there are on this machine, as far as is known."""
    one_machine: bool
    """Whether it is known that all are on this one."""
    file: str
    """Empty where they meet at an address."""
    address: str
    """HOST:PORT; empty where they meet over a file."""

    @property
    def where(self) -> str:
        """The meeting place, as a person knows it."""
        return self.file or self.address


def is_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process was started as one of several; raises RelayError if unclear."""
    if not environment.get("WORLD_SIZE"):
        return False
    several = _number("WORLD_SIZE", environment, 1) > 1
    met = any(environment.get(name) for name in ("MASTER_ADDR", "RANK", MEETING_VARIABLE))
    return several and met


@contextmanager
def joined(
    answer_minutes: float,
    environment: Mapping[str, str] = os.environ,
    stop: StopRequest | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Team]:
    """Meet the other ranks that were started, or be alone where none was.

    Whatever this rank fails with, the others are told.

    Args:
        answer_minutes: minutes after which a rank that does not answer in a step counts as lost.
        environment: torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, ...), or those of
            `launch`.
        stop: is looked at while other ranks are waited for.
        say: takes a line where they are waited for long.

    Raises:
        RelayError: the variables contradict each other, not all came in time, the port is taken, or
            a stop was asked for.
    """
    if not is_rank(environment):
        yield Team()
        return
    team = _join(answer_minutes, _place(environment), stop, say)
    try:
        yield team
    except BaseException as error:
        if team.unfinished:  # torch would wait for it at the end of the process
            atexit.register(_leave)
        if not isinstance(error, RankLostError):  # whose words are known to all, or it has none
            team.tell_failure(str(error) if isinstance(error, RelayError) else repr(error))
        raise
    # After a failure the connections end with the process: closing them could wait for ever.
    dist.destroy_process_group()


def loopback() -> str:
    """Return the name of the network interface that reaches this machine alone."""
    names = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    return next((name for name in names if name in ("lo", "lo0")), "lo")


def has_ipv4_loopback() -> bool:
    """Return whether this machine has the address 127.0.0.1."""
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", 0))
        except OSError:
            return False
    return True


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def _number(name: str, environment: Mapping[str, str], least: int, most: int = 2**31) -> int:
    """Return the value of a variable; raises RelayError where it is none from `least` to `most`."""
    text = environment.get(name, "")
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        up_to = f" to {most}" if most < 2**31 else " and more"
        raise RelayError(
            f"The environment variable {name} is {text!r} where a rank needs {least}{up_to}:"
            f" {_FOREIGN}, or start all ranks with torchrun."
        )
    return number


def _place(environment: Mapping[str, str]) -> _Place:
    """Read the variables; raises a RelayError that names those that are missing or wrong."""
    file = environment.get(MEETING_VARIABLE, "")
    needed = ("RANK",) if file else ("RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not environment.get(name)]
    if missing:
        there = [
            f"{name}={environment[name]}" for name in ("WORLD_SIZE", *needed) if name in environment
        ]
        verb = "is" if len(missing) == 1 else "are"
        raise RelayError(
            f"The environment has {', '.join(there)}, but {', '.join(missing)} {verb} not set:"
            f" {_FOREIGN}, or start all ranks with torchrun."
        )
    ranks = _number("WORLD_SIZE", environment, 1)
    rank = _number("RANK", environment, 0, ranks - 1)
    local_ranks = ranks
    if environment.get("LOCAL_WORLD_SIZE"):
        local_ranks = _number("LOCAL_WORLD_SIZE", environment, 1, ranks)
    # Without it, ranks count as all of one machine, as many as it has.
    local_rank = rank % local_ranks
    if environment.get("LOCAL_RANK"):
        local_rank = _number("LOCAL_RANK", environment, 0, local_ranks - 1)
    address = ""
    if not file:
        address = f"{environment['MASTER_ADDR']}:{_number('MASTER_PORT', environment, 1, 65535)}"
    one_machine = bool(environment.get("LOCAL_WORLD_SIZE")) and local_ranks == ranks
    return _Place(rank, ranks, local_rank, local_ranks, one_machine, file, address)


def _join(
    answer_minutes: float,
    place: _Place,
    stop: StopRequest | None,
    say: Callable[[str], None],
) -> Team:
    if place.one_machine:
        # Else gloo looks up this machine's name, and listens where that leads.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback())
    waiting = _Waiting(place, stop, say)
    try:
        store = _store(place, waiting)
        name = _meet(store, place.rank, place.ranks, waiting)
        counts = None
        if place.file:
            counts = Counts(Path(f"{place.file}-{name}"))
            counts.create()
        store = dist.PrefixStore(name, store)
        store.set(f"said/{place.rank}", "0")
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("torch", store),
            rank=place.rank,
            world_size=place.ranks,
            timeout=timedelta(seconds=PREPARE_SECONDS),
        )
        answer = timedelta(minutes=answer_minutes)
        words = dist.new_group(backend="gloo", timeout=answer)
    except (RuntimeError, ValueError, OSError) as error:
        raise RelayError(
            f"The {place.ranks} ranks could not meet at {place.where} ({first_line(error)});"
            f" {_meeting_remedy(place)}"
        ) from error
    return Team(
        rank=place.rank,
        ranks=place.ranks,
        local_rank=place.local_rank,
        nodes=-(-place.ranks // place.local_ranks),
        store=store,
        words=words,
        gradients=words,
        answer=answer,
        counts=counts,
        stop=stop,
        say=say,
    )


def _meeting_remedy(place: _Place) -> str:
    if place.file:
        return "set RELAYDET_CACHE to a folder on a disk of this machine, or GPUS to 1."
    return (
        "check that all machines can reach that port, that nothing else uses it, and that all were"
        f" started; {_FOREIGN}."
    )


def _store(place: _Place, waiting: _Waiting) -> Any:
    """Open what the ranks leave their notes in.

    Under torchrun this waits in torch until all are connected; in a thread, since nothing
    interrupts that.
    """
    if place.file:
        # Without a number of ranks nobody removes the file: some may still look into it.
        return dist.FileStore(place.file)
    found: list[Any] = []
    thread = threading.Thread(target=_connect, args=(found,), daemon=True)
    thread.start()
    others = [rank for rank in range(place.ranks) if rank != place.rank]
    while thread.is_alive():
        waiting.look(others if place.rank == 0 else [0])
        thread.join(LOOK_SECONDS)
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _connect(found: list[Any]) -> None:
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
        found.append(store)
    except BaseException as error:  # raised again by who waits for it
        found.append(error)


class _Waiting:
    """For ranks that have not come yet: has an end, looks at the stop, and says whom for."""

    def __init__(self, place: _Place, stop: StopRequest | None, say: Callable[[str], None]) -> None:
        self._place, self._stop, self._say = place, stop, say
        self._began = time.monotonic()
        self._next_line = LINE_SECONDS if place.file else FIRST_LINE_SECONDS

    def look(self, missing: list[int]) -> None:
        """Say a line where it is due; raise where the time is over, or a stop was asked for."""
        waited = time.monotonic() - self._began
        who = f"rank {', '.join(map(str, missing))}"
        if waited > JOIN_SECONDS:
            raise RuntimeError(f"{who} did not come within {JOIN_SECONDS / 60:g} min")
        stop = self._stop
        if stop is not None and stop and stop.seconds_left() > 0:
            raise RuntimeError(f"{who} had not come yet when it was {stop.reason}")
        if waited > self._next_line:
            self._next_line = waited + LINE_SECONDS
            alone = "" if self._place.file else "; unset WORLD_SIZE and RANK to train alone"
            self._say(
                f"waiting for {who} of {self._place.ranks} at {self._place.where}, up to"
                f" {JOIN_SECONDS / 60:g} min{alone}"
            )


def _meet(store: Any, rank: int, ranks: int, waiting: _Waiting) -> str:
    """Return a name for this gathering, the same on all ranks.

    The store may outlive ranks that died, and has their notes: so rank 0 makes the name, and hands
    it to whoever answers now.
    """
    if rank:
        mine = uuid.uuid4().hex
        leave(store, f"hello/{rank}", mine)
        while not has(store, f"answer/{mine}"):
            waiting.look([0])
            time.sleep(LOOK_SECONDS)
        name = store.get(f"answer/{mine}").decode()
        leave(store, f"here/{name}/{rank}", "")
        return name
    name, missing = uuid.uuid4().hex, list(range(1, ranks))
    while missing:
        for other in missing:
            if has(store, f"hello/{other}"):
                leave(store, f"answer/{store.get(f'hello/{other}').decode()}", name)
        missing = [o for o in missing if not has(store, f"here/{name}/{o}")]
        if missing:
            waiting.look(missing)
        time.sleep(LOOK_SECONDS)
    return name
