"""Read samples ahead, in worker processes that cannot lose one on the way.

A worker writes each sample into a socket of its own, in the thread that read it: what cannot be
sent is an error there, and a worker that dies is an end of file here. torch's DataLoader hands
tensors over by a second thread, through shared memory and a socket in the temporary folder; where
either is too small or its path too long, that thread prints an error, drops the batch, and training
waits for it forever. Nothing here needs shared memory, temporary files or locks.

Which worker reads which sample is fixed (worker k of n: each n-th), and a sample is a pure function
of its key, so reading can start again at any batch, with any number of workers.

Every wait for a sample looks at the stop, and has an end.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from relaydet.console import say
from relaydet.errors import DataError, RelayError, StopError
from relaydet.runtime.stop import StopRequest

LOOK_SECONDS = 0.5
"""How often a wait looks whether it should end."""
OBEY_SECONDS = 3.0
"""How long a batch is waited for before a stop ends the wait: a session that was given no time at
all still takes its first step, and ranks stop together after a step where they can."""
SAY_SECONDS = 60.0
"""After so long without a sample it is reported what is waited for, and new workers are tried."""
ALONE_SECONDS = 120.0
"""After so long without a sample it is tried without workers."""
GIVE_UP_SECONDS = 300.0
"""After so long without a sample it is an error; less than other ranks wait for this one."""
RETRY_SECONDS = 2.0
"""How often an image is tried again whose disk or mount is away."""
FORGIVEN_BATCHES = 100
"""Batches without a failure of the workers after which earlier ones are forgotten."""
KILL_SECONDS = 2.0
"""How long a killed worker is waited for: in the midst of a dead mount it may never end."""
_PARENT_SECONDS = 1.0
_LENGTH = struct.Struct("!Q")

Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Image (uint8 [3, H, W]) and target."""


@dataclass(frozen=True)
class Read:
    """A sample as it was read."""

    image_CHW: np.ndarray
    """uint8 [3, H, W], contiguous."""
    target: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What to read, in which order. Picklable."""

    read: Callable[[Any], Read]
    """Reads the sample of a key; raises RelayError where that cannot be done."""
    describe: Callable[[Any], str]
    """Names a key's file and where it is, for messages."""
    away: Callable[[RelayError], str]
    """A sentence where an error says that a disk or mount is away and may come back; else empty."""
    batches: Iterable[Sequence[Any]]
    """Keys of each batch; can be iterated over again and again."""
    ahead: int
    """Samples that wait here at most, beside one in each worker."""


@dataclass(frozen=True)
class Wait:
    """Who is asked and told while a sample is waited for."""

    stop: StopRequest | None = None
    """May end the wait."""
    say: Callable[[str], None] = say
    """Takes a sentence on what is waited for, and on workers that failed."""


NO_STOP = Wait()
"""For whoever is stopped by other means."""


@dataclass(frozen=True)
class _Failed:
    """A sample that cannot be read, and the sentence why."""

    message: str


@dataclass(frozen=True)
class _Broken:
    """An error in reading that nobody expected, as a traceback."""

    message: str


@dataclass(frozen=True)
class _Away:
    """A sample whose disk or mount is away, which is tried again."""

    message: str


class _Ended:
    """A worker's end: of all samples, or of the worker."""


_Answer = Read | _Failed | _Broken | _Away
_Put = Callable[[Any], bool]
"""Takes an answer; false where nobody wants any more."""


class _LostError(Exception):
    """Reading has to start again; says why."""


def read_in_order(
    task: Task, workers: int, pin: bool, wait: Wait
) -> Generator[list[Sample], None, None]:
    """Read all batches of a task, in order.

    Args:
        task: what to read.
        workers: processes that read ahead; 0 reads in a thread of this one.
        pin: put images into memory that a GPU can copy from while it computes.
        wait: what ends a wait.

    Raises:
        DataError: a sample cannot be read, or none came for GIVE_UP_SECONDS.
        StopError: a stop was asked for while a sample was waited for.
    """
    reading = _Reading(task, workers, pin, wait)
    try:
        for number, keys in enumerate(task.batches):
            yield reading.batch(number, keys)
    finally:
        reading.close()


class _Reading:
    """Where the samples come from at the moment, and how long the next one has been waited for."""

    def __init__(self, task: Task, workers: int, pin: bool, wait: Wait) -> None:
        self.task, self.workers, self.pin, self.wait = task, workers, pin, wait
        self.source: _Source | None = None
        self.failures = 0
        self.failed_at = 0
        self.furthest = (0, -1)
        """The last sample that came: its batch, and its place there. Not those that come again."""
        self.since = time.monotonic()
        """When that was, or when the next one began to be waited for."""
        self.said = False
        """Whether it was reported what is waited for."""
        self.away = ""
        """Why a sample is tried again."""

    def batch(self, number: int, keys: Sequence[Any]) -> list[Sample]:
        """The samples of a batch."""
        if self.failures and number - self.failed_at >= FORGIVEN_BATCHES:
            self.failures = 0
        began = self.since = time.monotonic()
        while True:
            try:
                source = self.source or self._start(number)
                return [
                    self._sample(source, (number, place), key, began)
                    for place, key in enumerate(keys)
                ]
            except _LostError as lost:
                self._start_again(number, str(lost))

    def close(self) -> None:
        """End workers and threads."""
        if self.source is not None:
            self.source.close()
            self.source = None

    def _start(self, number: int) -> _Source:
        workers = {0: self.workers, 1: self.workers}.get(self.failures, 0)
        try:
            self.source = _Source(self.task, number, workers, self.pin)
        except OSError as error:
            self.failures, self.failed_at = 2, number
            self.wait.say(
                f"loader workers cannot be started ({error.strerror or error}); images are read"
                " without them from here on. WORKERS 0 reads so from the start"
            )
            self.source = _Source(self.task, number, 0, self.pin)
        return self.source

    def _start_again(self, number: int, why: str) -> None:
        self.close()
        self.failures, self.failed_at = self.failures + 1, number
        how = "with new ones" if self.failures == 1 else "without them"
        self.wait.say(f"{why}; the batch is read again, {how}")

    def _sample(self, source: _Source, place: tuple[int, int], key: Any, began: float) -> Sample:
        while True:
            self._obey(began)
            try:
                item = source.next()
            except queue.Empty:
                self._look(source, key)
                continue
            if isinstance(item, _Away):
                if not self.away:
                    self.wait.say(f"{item.message.rstrip('.')}; {self._patience()}")
                self.away, self.said = item.message, True
                self._look(source, key)
            elif isinstance(item, _Ended):
                raise _LostError(source.obituary())
            elif isinstance(item, _Failed):
                raise DataError(item.message)
            elif isinstance(item, _Broken):
                last = item.message.strip().rpartition("\n")[2]
                raise RuntimeError(f"{self.task.describe(key)}: {last}\n{item.message}")
            else:
                self._has_come(place)
                return item

    def _has_come(self, place: tuple[int, int]) -> None:
        if place <= self.furthest:
            return
        if self.said:
            self.wait.say("images are read again")
        self.furthest, self.since, self.said, self.away = place, time.monotonic(), False, ""

    def _obey(self, began: float) -> None:
        stop = self.wait.stop
        if stop is not None and time.monotonic() - began >= OBEY_SECONDS and stop:
            raise StopError(str(stop.reason))

    def _look(self, source: _Source, key: Any) -> None:
        """Raise where waiting for a sample has to end."""
        waited = time.monotonic() - self.since
        if waited >= GIVE_UP_SECONDS:
            raise DataError(self.away or self._nothing_came(key))
        if waited >= SAY_SECONDS and not self.said:
            self.said = True
            self.wait.say(
                f"no image has come for {SAY_SECONDS:.0f} s: waiting for {self.task.describe(key)};"
                f" {self._patience()}"
            )
        if source.processes and not self.away:
            step = (SAY_SECONDS, ALONE_SECONDS)[min(self.failures, 1)]
            if waited >= step:
                raise _LostError(f"the loader workers have sent nothing for {waited:.0f} s")

    def _patience(self) -> str:
        return f"trying for {GIVE_UP_SECONDS / 60:g} minutes in all"

    def _nothing_came(self, key: Any) -> str:
        return (
            f"{self.task.describe(key)}: could not be read within {GIVE_UP_SECONDS / 60:g} minutes;"
            " the disk or mount does not answer: mount it again, or copy the images to this machine"
            " and name the folder in IMAGES, then run again."
        )


class _Source:
    """Threads that fill queues with samples: one for each worker, or one that reads by itself.

    Each worker has a queue, and its samples are taken by turns.
    """

    def __init__(self, task: Task, first: int, workers: int, pin: bool) -> None:
        self.processes: list[Any] = []
        size = -(-task.ahead // workers) if workers else 1
        self._queues: list[queue.Queue[Any]] = [
            queue.Queue(max(1, size)) for _ in range(max(1, workers))
        ]
        self._turn = 0
        self._sockets: list[socket.socket] = []
        self._pin = pin
        self._cuda = torch.cuda.current_device() if pin else None
        self._closed = False
        self._threads: list[threading.Thread] = []
        atexit.register(self.close)  # before multiprocessing's own, which asks and waits
        try:
            for worker in range(workers):
                self._start_worker(task, first, worker, workers)
            for items, mine in zip(self._queues, self._sockets, strict=False):
                self._start_thread(items, partial(self._receive, mine))
            if not workers:
                self._start_thread(self._queues[0], partial(self._read, task, first))
        except BaseException:
            self.close()
            raise

    def next(self) -> Sample | _Failed | _Broken | _Away | _Ended:
        """Return the next sample; raise queue.Empty where it does not come for LOOK_SECONDS."""
        item = self._queues[self._turn].get(timeout=LOOK_SECONDS)
        if not isinstance(item, _Away | _Ended):
            self._turn = (self._turn + 1) % len(self._queues)
        return item

    def obituary(self) -> str:
        """Return a sentence's beginning on how the worker ended whose turn it is."""
        process = self.processes[self._turn]
        process.join(KILL_SECONDS)
        code = process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            why = "; most likely the machine's memory was full, and fewer WORKERS need less"
            return f"a loader worker died of {name}{why if name == 'SIGKILL' else ''}"
        return f"a loader worker ended with code {code}"

    def close(self) -> None:
        """End the workers at once. One that a dead mount does not let go of is left behind."""
        atexit.unregister(self.close)
        self._closed = True
        for process in self.processes:
            process.kill()
        for mine in self._sockets:
            with contextlib.suppress(OSError):  # its other end may be gone
                mine.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + KILL_SECONDS
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                # multiprocessing waits without end for each child that it knows as this one exits.
                multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
        if self._sockets:  # a thread that reads by itself may hang in that
            for thread in self._threads:
                thread.join(KILL_SECONDS)
        for mine in self._sockets:
            mine.close()

    def _start_worker(self, task: Task, first: int, worker: int, workers: int) -> None:
        mine, theirs = socket.socketpair()
        self._sockets.append(mine)
        with theirs:
            process = multiprocessing.Process(
                target=_work, args=(task, first, worker, workers, theirs), daemon=True
            )
            process.start()
        self.processes.append(process)

    def _start_thread(self, items: queue.Queue[Any], fill: Callable[[_Put], None]) -> None:
        def put(item: Any) -> bool:
            while not self._closed:
                try:
                    items.put(item, timeout=LOOK_SECONDS)
                    return True
                except queue.Full:
                    pass
            return False

        def run() -> None:
            try:
                if self._cuda is not None:
                    torch.cuda.set_device(self._cuda)  # a new thread has the first GPU
                fill(put)
            except Exception:
                put(_Broken(traceback.format_exc()))

        thread = threading.Thread(target=run, name="loader", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _read(self, task: Task, first: int, put: _Put) -> None:
        """Read here, in this thread."""

        def put_sample(answer: _Answer) -> bool:
            if isinstance(answer, Read):
                image_CHW = torch.from_numpy(answer.image_CHW)
                return put(_sample_of(image_CHW, answer.target, self._pin))
            return put(answer)

        _read_all(task, first, 0, 1, put_sample)

    def _receive(self, mine: socket.socket, put: _Put) -> None:
        """Take the samples of one worker, until its end."""
        with contextlib.suppress(OSError, EOFError):
            while put(self._received(mine)):
                pass
        put(_Ended())

    def _received(self, mine: socket.socket) -> Any:
        length = bytearray(_LENGTH.size)
        _fill(mine, memoryview(length))
        header = bytearray(_LENGTH.unpack(length)[0])
        _fill(mine, memoryview(header))
        answer, shape = pickle.loads(header)  # from a process of our own
        if shape is None:
            return answer
        image_CHW = torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=self._pin)
        if image_CHW.numel():
            _fill(mine, image_CHW.numpy().data.cast("B"))
        return _sample_of(image_CHW, answer, False)


def _sample_of(image_CHW: torch.Tensor, target: dict[str, np.ndarray], pin: bool) -> Sample:
    tensors = {name: torch.from_numpy(values) for name, values in target.items()}
    return image_CHW.pin_memory() if pin else image_CHW, tensors


def _fill(mine: socket.socket, view: memoryview) -> None:
    while len(view):
        count = mine.recv_into(view, 0, socket.MSG_WAITALL)  # in one go, as far as there is one
        if not count:
            raise EOFError
        view = view[count:]


def _work(task: Task, first: int, worker: int, workers: int, theirs: socket.socket) -> None:
    """What a worker does, from its first sample to its last.

    It has one core. Signals are the main process's: a terminal's Ctrl-C reaches all processes, and
    the main one needs its workers until it has saved, and ends them then.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_without_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)

    def send(answer: _Answer) -> bool:
        read = answer if isinstance(answer, Read) else None
        content = read.target if read else answer
        header = pickle.dumps((content, read.image_CHW.shape if read else None))
        theirs.sendall(_LENGTH.pack(len(header)) + header)
        if read and read.image_CHW.size:
            theirs.sendall(read.image_CHW.data.cast("B"))
        return True

    with theirs, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _read_all(task, first, worker, workers, send)


def _end_without_parent(parent: int) -> None:
    """End a worker whose main process was killed, also where it hangs in reading."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def _read_all(task: Task, first: int, worker: int, workers: int, put: _Put) -> None:
    """Read each of a worker's samples, until `put` returns that nobody wants them any more.

    Args:
        task: what to read.
        first: batches to leave out.
        worker: which samples from there: this one, and each `workers`-th after it.
        workers: how many share them.
        put: takes an answer.
    """
    keys = chain.from_iterable(islice(task.batches, first, None))
    for key in islice(keys, worker, None, workers):
        answer = _read(task, key)
        while isinstance(answer, _Away):
            if not put(answer):
                return
            time.sleep(RETRY_SECONDS)
            answer = _read(task, key)
        if not put(answer):
            return


def _read(task: Task, key: Any) -> _Answer:
    try:
        return task.read(key)
    except RelayError as error:
        away = task.away(error)
        return _Away(away) if away else _Failed(str(error))
    except MemoryError:
        return _Failed(
            f"{task.describe(key)}: the machine's memory is too small to read it; lower WORKERS, or"
            " close other programs."
        )
    except Exception:
        return _Broken(traceback.format_exc())
