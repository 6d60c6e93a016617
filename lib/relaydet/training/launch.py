"""Several ranks on this machine, each a process of its own that is shown and stopped from here.

Not forked: a notebook that has touched CUDA cannot be. Not under torchrun, which looks this
machine's name up and opens a port to everybody: the ranks meet over a file, and talk over loopback.

What NCCL wants of torch's store (an id, and a look for a note every second) a FileStore has, by the
source of both; NCCL 2.30 was seen to listen on 127.0.0.1 alone with NCCL_SOCKET_IFNAME "=lo", and
looks up no host name. That several GPUs train in this way was not tried: none were there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

import relaydet
from relaydet import errors
from relaydet.errors import RankLostError, RelayError
from relaydet.runtime.stop import StopRequest, stop_on_signals
from relaydet.storage.cache import cache_root, disk_trouble
from relaydet.training.channel import Channel
from relaydet.training.meeting import MEETING_VARIABLE, has_ipv4_loopback, loopback

MODULE = "relaydet.jobs.rank"
"""What each process runs; it takes the channel's folder and this process's id."""
PLACE = str(Path(relaydet.__file__).parents[1])
"""The folder that this package lies in, which a notebook may have from anywhere."""
LOOK_SECONDS = 0.1
LOST_SECONDS = 90.0
"""How long rank 0 may take to save and end once another rank has died."""
LEFT_SECONDS = 5.0
"""How long the others may take once rank 0 has ended: they have nothing to save."""
UNSTARTED_SECONDS = 9.0
"""How long ranks may take to end on a stop before the first step, when there is nothing to save."""
KILL_SECONDS = 10.0
"""How long ranks may take to end when told to end at once."""
FOREIGN_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE")
"""Of some other launcher; so are those that begin with FOREIGN_PREFIXES."""
FOREIGN_PREFIXES = ("TORCHELASTIC_", "GROUP_WORLD_SIZE", "ROLE_")
_LAST_WORDS = 300
FIND = (
    # The current folder may have a queue.py; PYTHONSAFEPATH is unknown to Python 3.10.
    "import sys; sys.path[:1] = [p for p in sys.path[:1] if p]; here = sys.argv.pop(1);"
    # Beside this package other folders may lie, in /kaggle/input those of data sets: one may be
    # named torch. So only the package itself is looked for there before anywhere else.
    " sys.path.insert(0, here); import relaydet; sys.path.remove(here); sys.path.append(here);"
)
"""Python code by which a rank has the same package as this process; it takes the folder that the
package lies in."""
_START = f"{FIND} from {MODULE} import main; sys.exit(main(*sys.argv[1:]))"


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
    with disk_trouble(channel.folder):
        channel.config.write_bytes(msgspec.json.encode(asked))
    stop = StopRequest()
    with stop_on_signals(stop):
        for start in range(max_restarts + 1):
            if start:
                say(f"all ranks start again (restart {start})")
            shown = _Shown(say, open_bar)
            codes = _run(channel, ranks, start, shown, stop)
            if shown.result is not None or stop or not any(codes):
                break
    if shown.result is None:
        failure = shown.failure(channel, codes, str(stop.reason) if stop else "")
        failure.stopped = bool(stop)
        raise failure
    shutil.rmtree(channel.folder, ignore_errors=True)
    return shown.result


def _run(
    channel: Channel, ranks: int, start: int, shown: _Shown, stop: StopRequest
) -> list[int | None]:
    """Start all ranks and stay until the last has ended.

    Returns:
        How each ended by itself: its exit code, negative where a signal killed it; None where it
        was killed from here.
    """
    processes: list[subprocess.Popen] = []
    codes: list[int | None] = [None] * ranks
    try:
        for rank in range(ranks):
            processes.append(_started(channel, rank, ranks, start))
        _attend(processes, codes, channel, shown, stop)
    finally:
        shown.close()
        _end(processes, channel)
    return codes


def _started(channel: Channel, rank: int, ranks: int, start: int) -> subprocess.Popen:
    environment = {
        **environment_of_ranks(ranks),
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(ranks),
        MEETING_VARIABLE: str(channel.meeting(start)),
    }
    with disk_trouble(channel.folder), channel.log(rank).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _START, PLACE, str(channel.folder), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is for this process alone
        )


def _attend(
    processes: Sequence[subprocess.Popen],
    codes: list[int | None],
    channel: Channel,
    shown: _Shown,
    stop: StopRequest,
) -> None:
    """Show what the ranks tell, and hand them a stop, until all have ended or have had their time.

    Args:
        processes: the ranks.
        codes: filled with how they end.
        channel: to them.
        shown: takes what they tell.
        stop: of this process.
    """
    asked = lost = left = float("inf")
    while any(code is None for code in codes):
        now = time.monotonic()
        if stop and asked > now:
            channel.ask_to_stop(str(stop.reason))
            asked = now
        shown.take_all(channel)
        for rank, process in enumerate(processes):
            codes[rank] = process.poll()
        if any(codes):
            lost = min(lost, now)
        if codes[0] is not None:
            left = min(left, now)
        late = now > asked + UNSTARTED_SECONDS and not shown.began
        if late or now > lost + LOST_SECONDS or now > left + LEFT_SECONDS:
            break
        time.sleep(LOOK_SECONDS)
    shown.take_all(channel)


class _Shown:
    """What has come through a channel so far."""

    def __init__(
        self, say: Callable[[str], None], open_bar: Callable[[str, int, int], Any]
    ) -> None:
        self.result: dict[str, Any] | None = None
        self.began = False
        """Whether the first step was begun."""
        self._say, self._open_bar = say, open_bar
        self._bar: Any = None
        self._failures: list[dict[str, Any]] = []

    def take_all(self, channel: Channel) -> None:
        """Show what is new, or keep it."""
        for event in channel.news():
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        if "say" in event:
            self._say(event["say"])
        if "bar" in event:
            self.close()
            self.began = True
            self._bar = self._open_bar(*event["bar"])
        if "at" in event and self._bar is not None:
            self._bar.update(event["at"] - self._bar.n)
            self._bar.set_postfix(event["postfix"], refresh=False)
        if "close" in event:
            self.close()
        if "result" in event:
            self.result = event["result"]
        if "failure" in event:
            self._failures.append(event["failure"])

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def failure(self, channel: Channel, codes: Sequence[int | None], stopped: str) -> RelayError:
        """Return what that came to: the first rank that failed by itself, else one that died.

        Args:
            channel: of the ranks.
            codes: how each ended by itself; None where it was killed from here.
            stopped: why this process was to stop; empty where it was not.
        """
        output = f"all that the ranks printed is in {channel.folder}"
        told = [f for f in self._failures if f["kind"] != RankLostError.__name__]
        if told:
            kind = _kind_of(told[0]["kind"])
            who = f"Rank {told[0]['rank']}: " if told[0]["rank"] or kind is None else ""
            if kind is not None:
                return kind(f"{who}{told[0]['message']}")
            return RelayError(f"{who}{told[0]['kind']}: {told[0]['message']}; {output}.")
        if stopped and not self.began:
            return RelayError(f"It was {stopped} before the first step; run again to start.")
        dead = [(rank, code) for rank, code in enumerate(codes) if code is not None and code < 0]
        what = "the last checkpoint is kept; run again to go on"
        if dead:
            rank, code = dead[0]
            how = f"Rank {rank} died of {signal.Signals(-code).name}{_last_words(channel, rank)}"
            return RankLostError(f"{how}; {what}; {output}.")
        if self._failures:
            return RankLostError(f"{self._failures[0]['message']}; run again to go on; {output}.")
        ended = [(rank, code) for rank, code in enumerate(codes) if code]
        if ended:
            rank, code = ended[0]
            how = f"Rank {rank} ended with code {code}{_last_words(channel, rank)}"
            return RelayError(f"{how}; {output}.")
        return RankLostError(f"Rank 0 does not answer; {what}; {output}.")


def _kind_of(name: str) -> type[RelayError] | None:
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, RelayError) else None


def _last_words(channel: Channel, rank: int) -> str:
    """Return the last line that a rank printed, which may tell why it ended."""
    log = channel.log(rank)
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f" (it printed last: {lines[-1][-_LAST_WORDS:]})" if lines else ""


def _fresh_folder(name: str) -> Path:
    """Make one that no launch had before, for this user alone: other ranks may still be saving."""
    parent = cache_root() / "ranks"
    with disk_trouble(parent):
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def environment_of_ranks(ranks: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables that all processes get.

    They share the cores, and what they say to each other stays on this machine. An interface that
    the user chose for NCCL stays: whether another one would do is not known here.
    """
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    kept = {
        name: value
        for name, value in environment.items()
        if name not in FOREIGN_VARIABLES and not name.startswith(FOREIGN_PREFIXES)
    }
    # NCCL takes no IPv6 address of loopback, and fails where it was given nothing else.
    nccl = {"NCCL_SOCKET_IFNAME": f"={loopback()}"} if has_ipv4_loopback() else {}
    return {
        "OMP_NUM_THREADS": threads,
        **nccl,
        **kept,
        "PYTHONSAFEPATH": "1",
        "GLOO_SOCKET_IFNAME": loopback(),
    }


def _end(processes: Sequence[subprocess.Popen], channel: Channel) -> None:
    """Leave none running: those that have not ended are asked to, and killed after a while."""
    running = [process for process in processes if process.poll() is None]
    if not running:
        return
    channel.end_now()
    until = time.monotonic() + KILL_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # in a dead mount, which nothing ends
                process.wait(KILL_SECONDS)
    channel.take_back_end()
