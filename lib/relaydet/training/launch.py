"""Several ranks on this machine: torchrun in a process of its own, shown and stopped from here.

Not forked: a notebook that has touched CUDA cannot be.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

import relaydet
from relaydet import errors
from relaydet.errors import RankLostError, RelayError
from relaydet.runtime.stop import StopRequest, stop_on_signals
from relaydet.storage.cache import cache_root
from relaydet.training.channel import Channel

MODULE = "relaydet.jobs.rank"
"""What each process runs; it takes the channel's folder."""
LOOK_SECONDS = 0.1
KILL_SECONDS = 10.0
"""How long torchrun may take to end when its ranks have been told to."""
ORPHAN_SECONDS = 660.0
"""How long rank 0 is waited for where torchrun was killed: it may take ten minutes to save."""
_TAIL = 2_000


def launch(
    asked: Any,
    name: str,
    ranks: int,
    max_restarts: int,
    say: Callable[[str], None],
    open_bar: Callable[[str, int, int], Any],
) -> dict[str, Any]:
    """Have so many processes do a job; what rank 0 says and shows comes out here.

    Ctrl-C, a notebook's stop button and SIGTERM ask the ranks to save and pause; a second Ctrl-C
    ends them at once. Should this process be killed, they save and pause as well.

    Args:
        asked: what to do; the ranks find it in the channel's config.json.
        name: of the folder.
        ranks: how many.
        max_restarts: how often all start again where one died.
        say: takes a line.
        open_bar: opens a bar: a label, the total and what is done already.

    Returns:
        What rank 0 told as its result.

    Raises:
        RelayError: a rank failed, named if it is not the first.
    """
    channel = Channel(_fresh_folder(name))
    channel.config.write_bytes(msgspec.json.encode(asked))
    shown = _Shown(say, open_bar)
    stop = StopRequest()
    with channel.log.open("wb") as log, stop_on_signals(stop):
        process = subprocess.Popen(
            _command(channel.folder, ranks, max_restarts),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment_of_ranks(ranks),
            start_new_session=True,  # a terminal's Ctrl-C is for this process alone
        )
        try:
            _attend(process, channel, shown, stop)
        finally:
            shown.close()
            _end(process, channel)
    if shown.result is None:
        failure = shown.failure(channel, process.returncode)
        failure.stopped = bool(stop)
        raise failure
    shutil.rmtree(channel.folder, ignore_errors=True)
    return shown.result


def _attend(process: subprocess.Popen, channel: Channel, shown: _Shown, stop: StopRequest) -> None:
    asked = False
    while process.poll() is None:
        if stop and not asked:
            channel.ask_to_stop(str(stop.reason))
            asked = True
        shown.take_all(channel)
        time.sleep(LOOK_SECONDS)
    # Ranks notice by themselves that torchrun was killed, save and end.
    until = time.monotonic() + (ORPHAN_SECONDS if process.returncode < 0 else 0)
    while time.monotonic() < until and shown.rank_0_is_at_it():
        shown.take_all(channel)
        time.sleep(LOOK_SECONDS)
    shown.take_all(channel)


class _Shown:
    """What has come through a channel so far."""

    def __init__(
        self, say: Callable[[str], None], open_bar: Callable[[str, int, int], Any]
    ) -> None:
        self.result: dict[str, Any] | None = None
        self._say, self._open_bar = say, open_bar
        self._bar: Any = None
        self._pids: dict[int, int] = {}
        self._failures: list[dict[str, Any]] = []
        self._ended: list[dict[str, Any]] = []

    def take_all(self, channel: Channel) -> None:
        """Show what is new, or keep it."""
        for event in channel.news():
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        if "say" in event:
            self._say(event["say"])
        if "bar" in event:
            self.close()
            self._bar = self._open_bar(*event["bar"])
        if "at" in event and self._bar is not None:
            self._bar.update(event["at"] - self._bar.n)
            self._bar.set_postfix(event["postfix"], refresh=False)
        if "close" in event:
            self.close()
        if "started" in event:
            self._pids[event["started"]["rank"]] = event["started"]["pid"]
        if "result" in event:
            self.result = event["result"]
        if "failure" in event:
            self._failures.append(event["failure"])
        if "ended" in event:
            self._ended.append(event["ended"])

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def rank_0_is_at_it(self) -> bool:
        """Whether it has not told how it ended, and lives."""
        told = self.result is not None or any(f["rank"] == 0 for f in self._failures)
        return not told and 0 in self._pids and _lives(self._pids[0])

    def failure(self, channel: Channel, code: int) -> RelayError:
        """What all that came to: the first rank that failed by itself, else the one that died."""
        output = f"all that the ranks printed is in {channel.log}"
        told = [f for f in self._failures if f["kind"] != RankLostError.__name__]
        dead = [e for e in self._ended if e["how"].startswith("SIG") and e["how"] != "SIGTERM"]
        if told:
            kind = getattr(errors, told[0]["kind"], None)
            rank = f"Rank {told[0]['rank']}: " if told[0]["rank"] or kind is None else ""
            if kind is not None:
                return kind(f"{rank}{told[0]['message']}")
            return RelayError(f"{rank}{told[0]['kind']}: {told[0]['message']}; {output}.")
        what = "the last checkpoint is kept; run again to go on"
        if dead:
            return RankLostError(
                f"Rank {dead[0]['rank']} died of {dead[0]['how']}; {what}; {output}."
            )
        if self._failures:
            return RankLostError(f"{self._failures[0]['message']}; run again to go on; {output}.")
        if code < 0:
            return RankLostError(
                f"torchrun died of {signal.Signals(-code).name}; {what}; {output}."
            )
        tail = channel.log.read_text(errors="replace")[-_TAIL:].strip()
        return RelayError(f"The ranks ended with code {code} and said no more than: {tail}")


def _fresh_folder(name: str) -> Path:
    """One that no launch had before: ranks of another one may still be saving."""
    parent = cache_root() / "ranks"
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _command(folder: Path, ranks: int, max_restarts: int) -> list[str]:
    return [
        *(sys.executable, "-m", "relaydet.training.agent", str(folder)),
        # What --standalone means by now; in torch 2.0 it was one port for all on a machine.
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", uuid4().hex),
        *("--nnodes", "1", "--nproc-per-node", str(ranks)),
        *("--max-restarts", str(max_restarts), "-m", MODULE, str(folder)),
    ]


def environment_of_ranks(ranks: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables that the processes get.

    They share the cores, where torchrun by itself gives each one thread, and find this package,
    which a notebook may have from a folder of its own.
    """
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    here = str(Path(relaydet.__file__).parents[1])
    path = os.pathsep.join([here, *filter(None, [environment.get("PYTHONPATH")])])
    return {"OMP_NUM_THREADS": threads, **environment, "PYTHONPATH": path}


def _end(process: subprocess.Popen, channel: Channel) -> None:
    """Nothing of it is left afterwards."""
    channel.end_now()
    if process.poll() is None:
        try:
            process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
