"""One rank of a training that was launched from here: `python -m relaydet.jobs.rank FOLDER`."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import msgspec

from relaydet.config import TrainConfig
from relaydet.errors import RankLostError, RelayError
from relaydet.jobs.train import train_here
from relaydet.runtime.stop import StopRequest
from relaydet.training.agent import ORPHAN_SECONDS
from relaydet.training.channel import Channel, ToldBar

_LOOK_SECONDS = 0.5
_FOLLOW_SECONDS = 60.0
"""How long a rank that has nothing to save lives on without torchrun."""


def main(folder: str) -> int:
    """Train; what there is to tell goes through the channel.

    Returns:
        0 as well where a rank failed by a mistake that starting again does not mend.
    """
    channel, rank = Channel(Path(folder)), int(os.environ["RANK"])
    config, patient = msgspec.json.decode(
        channel.config.read_bytes(), type=tuple[TrainConfig, bool]
    )
    stop = StopRequest()
    threading.Thread(target=_watch, args=(channel, stop, rank, os.getppid()), daemon=True).start()
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts and rank == 0:
        channel.tell(say=f"all ranks start again (restart {restarts} of {config.max_restarts})")
    try:
        result = train_here(
            config,
            lambda line: channel.tell(say=line),
            patient,
            lambda label, total, done: ToldBar(channel, label, total, done),
            stop,
        )
    except RelayError as error:
        _tell_failure(channel, rank, error)
        return int(isinstance(error, RankLostError) and not error.told)
    except Exception as error:
        traceback.print_exc()
        _tell_failure(channel, rank, error)
        return 1
    if rank == 0:
        channel.tell(result=dataclasses.asdict(result))
    return 0


def _tell_failure(channel: Channel, rank: int, error: Exception) -> None:
    kind, message = type(error).__name__, str(error) or type(error).__name__
    channel.tell(failure={"rank": rank, "kind": kind, "message": message})


def _watch(channel: Channel, stop: StopRequest, rank: int, agent: int) -> None:
    """Ask for a stop when the channel does, or torchrun is gone; end for good when all is over."""
    patience = _FOLLOW_SECONDS if rank else ORPHAN_SECONDS
    alone_since = None
    while alone_since is None or time.monotonic() - alone_since < patience:
        time.sleep(_LOOK_SECONDS)
        if channel.is_over():
            break
        if (reason := channel.stop_reason()) is not None:
            stop.ask(reason)
        if alone_since is None and os.getppid() != agent:
            stop.ask("torchrun is gone")
            alone_since = time.monotonic()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
