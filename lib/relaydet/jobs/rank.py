"""One rank of a job that was launched from here: `python -m relaydet.jobs.rank FOLDER`."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import msgspec

from relaydet.config import BenchConfig, TrainConfig
from relaydet.console import shown
from relaydet.errors import RankLostError, RelayError
from relaydet.jobs.bench import Timed, time_here
from relaydet.jobs.train import TrainResult, train_here
from relaydet.runtime.stop import LOOK_SECONDS, StopRequest
from relaydet.training.channel import Channel, ToldBar


def main(folder: str) -> int:
    """Do this rank's part of a job; what there is to tell goes through the channel.

    Returns:
        0 as well where a rank failed by a mistake that starting again does not mend.
    """
    channel, rank = Channel(Path(folder)), int(os.environ["RANK"])
    stop = StopRequest()
    threading.Thread(target=_watch, args=(channel, stop), daemon=True).start()
    channel.tell(started={"rank": rank, "pid": os.getpid()})
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restarts and rank == 0:
        channel.tell(say=f"all ranks start again (restart {restarts})")
    try:
        result = _do(channel, stop)
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


def _do(channel: Channel, stop: StopRequest) -> TrainResult | Timed:
    """What the channel asks for: a run, or how long its steps take."""
    asked = msgspec.json.decode(channel.config.read_bytes())

    def say(line: str) -> None:
        channel.tell(say=shown(line))

    def open_bar(label: str, total: int, done: int) -> ToldBar:
        return ToldBar(channel, label, total, done)

    if asked["job"] == "train":
        config = msgspec.convert(asked["config"], TrainConfig)
        return train_here(config, say, asked["patient"], open_bar, stop)
    return time_here(msgspec.convert(asked["config"], BenchConfig), say, open_bar, stop)


def _tell_failure(channel: Channel, rank: int, error: Exception) -> None:
    kind, message = type(error).__name__, str(error) or type(error).__name__
    channel.tell(failure={"rank": rank, "kind": kind, "message": message})


def _watch(channel: Channel, stop: StopRequest) -> None:
    """Ask for a stop when the channel does; end at once when it says so."""
    while not channel.is_over():
        if (reason := channel.stop_reason()) is not None:
            stop.ask(reason)
        time.sleep(LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
