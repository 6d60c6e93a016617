"""One rank of a job that `launch` started."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
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

UNSTARTED_SECONDS = 5.0
"""How long a job may take to notice a stop before its first step; it is interrupted then."""
ORPHAN_SECONDS = 660.0
"""How long a rank may take to save and end where nobody waits for it any more."""


def main(folder: str, launcher: str) -> int:
    """Do this rank's part of a job; what there is to tell goes through the channel.

    Args:
        folder: the channel's.
        launcher: process id of the program that started this one.

    Returns:
        0 as well where a rank failed by a mistake that another start does not fix.
    """
    channel = Channel(Path(folder))
    rank = int(os.environ["RANK"])
    stop, began = StopRequest(), threading.Event()
    watched = threading.Thread(
        target=_watch, args=(channel, stop, began, int(launcher)), daemon=True
    )
    watched.start()
    channel.tell(started={"rank": rank, "pid": os.getpid()})
    try:
        result = _do(channel, stop, began)
    except RelayError as error:
        _tell_failure(channel, rank, error)
        return int(isinstance(error, RankLostError) and not error.told)
    except KeyboardInterrupt:
        traceback.print_exc()
        return 1
    except Exception as error:
        traceback.print_exc()
        _tell_failure(channel, rank, error)
        return 1
    if rank == 0:
        channel.tell(result=dataclasses.asdict(result))
    return 0


def _do(channel: Channel, stop: StopRequest, began: threading.Event) -> TrainResult | Timed:
    """What the channel asks for: a run, or how long its steps take."""
    asked = msgspec.json.decode(channel.config.read_bytes())

    def say(line: str) -> None:
        channel.tell(say=shown(line))

    def open_bar(label: str, total: int, done: int) -> ToldBar:
        began.set()
        return ToldBar(channel, label, total, done)

    if asked["job"] == "train":
        config = msgspec.convert(asked["config"], TrainConfig)
        return train_here(config, say, asked["patient"], open_bar, stop)
    return time_here(msgspec.convert(asked["config"], BenchConfig), say, open_bar, stop)


def _tell_failure(channel: Channel, rank: int, error: Exception) -> None:
    kind, message = type(error).__name__, str(error) or type(error).__name__
    channel.tell(failure={"rank": rank, "kind": kind, "message": message})


def _watch(channel: Channel, stop: StopRequest, began: threading.Event, launcher: int) -> None:
    """Ask for a stop when the channel does, or nobody is there any more; end at once when told to.

    Before the first step nothing looks at the stop: what is done then is interrupted, as Ctrl-C
    would.
    """
    told, gone = math.inf, math.inf
    while not channel.is_over() and time.monotonic() < gone + ORPHAN_SECONDS:
        if gone == math.inf and os.getppid() != launcher:
            stop.ask("the program that launched it is gone")
            told = gone = time.monotonic()
        if (reason := channel.stop_reason()) is not None:
            stop.ask(reason)
            told = min(told, time.monotonic())
        if time.monotonic() > told + UNSTARTED_SECONDS and not began.is_set():
            began.set()
            _interrupt()
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _interrupt() -> None:
    """Interrupt what is done before the first step, as Ctrl-C does.

    Rank 0 takes the first one for a request while it holds the lease, and ends by the second. The
    others do so in their steps alone, which look at the stop.
    """
    takes_it_for_a_request = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    leads = os.environ["RANK"] == "0"
    times = (2 if leads else 0) if takes_it_for_a_request else 1
    for _ in range(times):
        signal.pthread_kill(int(threading.main_thread().ident or 0), signal.SIGINT)
        time.sleep(LOOK_SECONDS)
