"""How the ranks that torchrun started meet, and part."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from relaydet.errors import RankLostError, RelayError
from relaydet.training.notes import LOOK_SECONDS, found, has, leave
from relaydet.training.team import Team, first_line

JOIN_SECONDS = 600.0
"""How long ranks wait until all have come."""
PREPARE_SECONDS = 3600.0
"""How long they wait for one that fetches images, or waits for a lease."""


def is_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process as one of several."""
    return int(environment.get("WORLD_SIZE") or 1) > 1 and "MASTER_ADDR" in environment


@contextmanager
def joined(answer_minutes: float, environment: Mapping[str, str] = os.environ) -> Iterator[Team]:
    """Meet the other ranks that torchrun started, or be alone where it started none.

    Whatever this rank fails with, the others are told.

    Args:
        answer_minutes: minutes after which a rank that does not answer in a step counts as lost.
        environment: torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, ...).

    Raises:
        RelayError: not all came in time, or the port is taken.
    """
    if not is_rank(environment):
        yield Team()
        return
    team = _join(answer_minutes, environment)
    try:
        yield team
    except RankLostError:
        raise  # its own words are known to all, or it had none
    except BaseException as error:
        team.tell_failure(str(error) if isinstance(error, RelayError) else repr(error))
        raise
    # After a failure the connections end with the process: closing them could wait for ever.
    dist.destroy_process_group()


def _join(answer_minutes: float, environment: Mapping[str, str]) -> Team:
    rank, ranks = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    address = f"{environment['MASTER_ADDR']}:{environment.get('MASTER_PORT')}"
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
        store = dist.PrefixStore(_meet(store, rank, ranks), store)
        store.set(f"said/{rank}", "0")
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("torch", store),
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=PREPARE_SECONDS),
        )
        answer = timedelta(minutes=answer_minutes)
        words = dist.new_group(backend="gloo", timeout=answer)
    except (RuntimeError, ValueError, OSError) as error:
        raise RelayError(
            f"The {ranks} ranks could not meet at {address} ({first_line(error)}); check that all"
            " machines can reach that port, that nothing else uses it, and that all were started."
        ) from error
    return Team(
        rank=rank,
        ranks=ranks,
        local_rank=int(environment.get("LOCAL_RANK", 0)),
        nodes=-(-ranks // int(environment.get("LOCAL_WORLD_SIZE", ranks))),
        store=store,
        words=words,
        gradients=words,
        answer=answer,
    )


def _meet(store: Any, rank: int, ranks: int) -> str:
    """A name for this gathering, the same on all ranks.

    The store outlives ranks that died, and has their notes: so rank 0 makes the name, and hands it
    to whoever answers now.
    """
    until = time.monotonic() + JOIN_SECONDS
    if rank:
        mine = uuid.uuid4().hex
        leave(store, f"hello/{rank}", mine)
        if not found(store, f"answer/{mine}", until):
            raise RuntimeError(f"rank 0 did not come within {JOIN_SECONDS / 60:g} min")
        name = store.get(f"answer/{mine}").decode()
        leave(store, f"here/{name}/{rank}", "")
        return name
    name, missing = uuid.uuid4().hex, list(range(1, ranks))
    while missing:
        for other in missing:
            if has(store, f"hello/{other}"):
                leave(store, f"answer/{store.get(f'hello/{other}').decode()}", name)
        missing = [o for o in missing if not has(store, f"here/{name}/{o}")]
        if missing and time.monotonic() > until:
            who = ", ".join(map(str, missing))
            raise RuntimeError(f"rank {who} did not come within {JOIN_SECONDS / 60:g} min")
        time.sleep(LOOK_SECONDS)
    return name
