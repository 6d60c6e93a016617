"""The ranks that train one run together: what they tell each other, and the sum of their gradients.

A rank is a process with a device of its own; `launch` or torchrun starts them, torch.distributed
carries what they say, as JSON and tensors: nothing that could run code where it is read. Each holds
the whole model and works on its share of every optimizer batch. A single process is a team of one,
in which nothing has to be said.

Gradients are summed after the backward pass, not during it as DistributedDataParallel does: so all
ranks know that nobody's memory ran out before any sum is begun, and can do the same step again.
What that costs is in benchmarks/scaling.md.

Words go over gloo, on the CPU; gradients over NCCL where the devices are GPUs.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import torch
import torch.distributed as dist

from relaydet.errors import RankLostError, RelayError
from relaydet.runtime.stop import StopRequest
from relaydet.training.notes import Counts, has, leave

T = TypeVar("T")

BUCKET_BYTES = 8 * 2**20
"""Gradients are summed in pieces of about so much: one is copied back while the next is summed."""
SUM_SECONDS = 20.0
"""How long a sum may take on GPUs: torchrun kills all 30 s after a rank has died, and before that
there must be time to save."""
PREPARE_SECONDS = 3600.0
"""How long ranks wait for one that fetches images, or waits for a lease."""
STOP_SECONDS = 8.0
"""How long other ranks are waited for once a stop was asked for, or twice as long as they ever took
in a step."""
_REASON_SECONDS = 3.0
"""How long a lost rank's own words are waited for."""
LINE_SECONDS = 60.0
"""How often a wait for other ranks is reported."""
_POLL_SECONDS = 1e-4
_LOOK_SECONDS = 0.1
_FAILED, _STOPPED = "failed", "stopped"


@dataclass(frozen=True, eq=False)
class Bucket:
    """Some gradients, and their values one after the other."""

    gradients: list[torch.Tensor]
    flat: torch.Tensor


@dataclass(eq=False)
class Team:
    """This rank and its connections to the others."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    """Its number on this machine."""
    nodes: int = 1
    """How many machines they are on."""
    store: Any = None
    """Where ranks leave notes; outlives each of them under torchrun."""
    words: Any = None
    """Process group for a step's words; the default group is for the preparation's."""
    gradients: Any = None
    """Process group for gradients."""
    answer: timedelta = timedelta(minutes=10)
    """How long a rank may take to answer in a step."""
    counts: Counts | None = None
    """Where ranks of one machine count what they have said; None where the store does."""
    stop: StopRequest | None = None
    """Is looked at while other ranks are waited for."""
    say: Callable[[str], None] = print
    """Takes a line where other ranks are waited for long."""
    unfinished: bool = field(default=False, init=False)
    """Whether something was given up that torch still waits for."""
    said: int = field(default=0, init=False)
    """How often this rank has said something in a step."""
    slowest: float = field(default=0.0, init=False)
    """Seconds that the other ranks were waited for in a step, at most."""
    flats: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    """What the buckets of the step before lay in."""

    @property
    def leads(self) -> bool:
        """Whether this is the one that holds the lease, writes and talks."""
        return self.rank == 0

    def use_gpus(self) -> None:
        """Send gradients from GPU to GPU; every rank has set its CUDA device before."""
        with self._speaking():
            self.gradients = dist.new_group(backend="nccl", timeout=self.answer)
            # NCCL connects at its first sum; what is wrong with it comes out here, not in a step.
            work = dist.all_reduce(
                torch.zeros(1, device="cuda"), group=self.gradients, async_op=True
            )
            self._wait([work], "connect its GPU", self.answer.total_seconds(), in_step=False)
            torch.cuda.synchronize()

    def share_first(self, make: Callable[[], T], kind: Any = Any) -> T:
        """Return what rank 0 makes, on every rank; it travels as JSON.

        Args:
            make: called on rank 0.
            kind: the type that it must have where it is read.

        Raises:
            RankLostError: rank 0 failed, or did not answer within PREPARE_SECONDS.
            RelayError: what came is not of that type.
        """
        if self.ranks == 1:
            return make()
        mine = make() if self.leads else None
        told = self.share_bytes(msgspec.json.encode(mine) if self.leads else b"")
        return mine if self.leads else _decoded(told, kind, 0)  # type: ignore[return-value]

    def share_bytes(self, mine: bytes | bytearray) -> bytes | bytearray:
        """Return what rank 0 has, on every rank; raises RankLostError as `share_first` does."""
        if self.ranks == 1:
            return mine
        size = torch.tensor([len(mine)])
        with self._speaking():
            self._broadcast(size)
            # Memory of its own: torch reads this as a tensor that may be written to.
            told = bytearray(mine) if self.leads else bytearray(int(size))
            if told:
                self._broadcast(torch.frombuffer(told, dtype=torch.uint8))
        return told

    def _broadcast(self, tensor: torch.Tensor) -> None:
        work = dist.broadcast(tensor, src=0, async_op=True)
        self._wait([work], "tell what to train", math.inf, in_step=False)

    def gather(self, mine: T, kind: Any = Any) -> list[T]:
        """Return what each rank has, by rank; it travels as JSON, and raises as `share_first`."""
        if self.ranks == 1:
            return [mine]
        told = msgspec.json.encode(mine)
        sizes = self._gathered(torch.tensor([len(told)]))
        padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8)
        padded[: len(told)] = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        rows = self._gathered(padded)
        return [
            _decoded(row[: int(size)].numpy().tobytes(), kind, rank)
            for rank, (row, size) in enumerate(zip(rows, sizes, strict=True))
        ]

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        rows = [torch.empty_like(tensor) for _ in range(self.ranks)]
        with self._speaking():
            work = dist.all_gather(rows, tensor, async_op=True)
            self._wait([work], "prepare", math.inf, in_step=False)
        return rows

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; raises RankLostError."""
        return (self.ranks > 1 and self.largest([float(flag)])[0] > 0) or flag

    def why_stop(self, reason: str | None) -> str | None:
        """Why to stop, where any rank has a reason; None where none has. Raises RankLostError.

        Args:
            reason: this rank's own.
        """
        if self.ranks > 1 and reason:
            with self._hearing():
                if not has(self.store, _STOPPED):
                    leave(self.store, _STOPPED, reason)
        if not self.any(reason is not None):
            return None
        with self._hearing():
            return reason or self.store.get(_STOPPED).decode()

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all ranks; raises RankLostError."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all ranks; raises RankLostError."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def pack_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> list[Bucket]:
        """Copy the gradients into a few long tensors, to be summed; a rank without one adds zero.

        Apart from the sum, so that memory may run out here and nobody waits for it.

        Args:
            parameters: the same ones in the same order on every rank.
        """
        if self.ranks == 1:
            return []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [_channels_last(p.grad) for p in parameters if p.grad is not None]
        return [
            Bucket(bucket, self._flat(number, [gradient.reshape(-1) for gradient in bucket]))
            for number, bucket in enumerate(_buckets(gradients))
        ]

    def _flat(self, number: int, parts: list[torch.Tensor]) -> torch.Tensor:
        """A bucket's values; on a CPU in the memory of the step before, as new pages are slow."""
        if parts[0].device.type != "cpu":
            return torch.cat(parts)
        size, dtype = sum(map(len, parts)), parts[0].dtype
        kept = self.flats.get(number)
        if kept is None or (len(kept), kept.dtype) != (size, dtype):
            kept = self.flats[number] = torch.empty(size, dtype=dtype)
        return torch.cat(parts, out=kept)

    def sum_gradients(self, packed: Sequence[Bucket]) -> None:
        """Replace every gradient by its sum over the ranks.

        Args:
            packed: of `pack_gradients`.

        Raises:
            RankLostError: a rank was lost; gradients are then of no use.
        """
        if self.ranks == 1:
            return
        with self._speaking():
            sums = [
                dist.all_reduce(bucket.flat, group=self.gradients, async_op=True)
                for bucket in packed
            ]
            what = "add its gradients"
            if any(bucket.flat.is_cuda for bucket in packed):
                self._wait(sums, what, min(SUM_SECONDS, self.answer.total_seconds()))
            for bucket, work in zip(packed, sums, strict=True):
                self._wait([work], what)
                parts = bucket.flat.split([gradient.numel() for gradient in bucket.gradients])
                for gradient, part in zip(bucket.gradients, parts, strict=True):
                    gradient.copy_(part.view(gradient.shape))

    def tell_failure(self, reason: str) -> None:
        """Leave word for the others why this rank ends; the first one's stays."""
        if self.store is None:
            return
        # Where torchrun is gone the store may be too: nobody could read it, and the reason counts.
        with suppress(RuntimeError):
            if not has(self.store, _FAILED):
                leave(self.store, _FAILED, f"Rank {self.rank}: {reason}")

    def _reduced(self, values: Sequence[float], how: Any) -> list[float]:
        if self.ranks == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        with self._speaking():
            work = dist.all_reduce(told, how, group=self.words, async_op=True)
            self._wait([work], "end its part of a step")
        return told.tolist()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        self.said += 1
        with self._hearing():
            if self.counts is None:
                self.store.set(f"said/{self.rank}", str(self.said))
            else:
                self.counts.put(self.rank, self.said)
            yield

    def _wait(
        self, works: Sequence[Any], what: str, seconds: float = math.inf, in_step: bool = True
    ) -> None:
        """Wait until all is done that the other ranks take part in.

        Args:
            works: what torch does meanwhile; it has a limit of its own.
            what: what the others have to do, as said after a minute.
            seconds: a shorter limit.
            in_step: whether this is part of a step, where all ranks take as long as the slowest.

        Raises:
            RuntimeError: they are not done in time, or not soon after a stop was asked for.
        """
        wait = _Wait(self, what, in_step)
        try:
            await_sums(works, seconds, wait.look)
        except BaseException:
            self.unfinished = True
            raise
        if in_step:
            self.slowest = max(self.slowest, time.monotonic() - wait.began)
        for work in works:
            work.wait()

    def behind(self) -> list[str]:
        """Return the ranks that have not said what this one has; raises RuntimeError."""
        if self.counts is not None:
            said = self.counts.of(self.ranks)
        else:
            said = [int(self.store.get(f"said/{rank}")) for rank in range(self.ranks)]
        late = [str(rank) for rank, count in enumerate(said) if count < self.said]
        return [str(1 - self.rank)] if not late and self.ranks == 2 else late

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> RankLostError:
        """Which rank did not answer, by the notes that all leave."""
        until = time.monotonic() + _REASON_SECONDS
        try:
            while not has(self.store, _FAILED) and time.monotonic() < until:
                time.sleep(0.1)
            if has(self.store, _FAILED):
                return RankLostError(self.store.get(_FAILED).decode(), told=True)
            behind = self.behind()
        except RuntimeError:
            return RankLostError(f"The other ranks cannot be reached ({first_line(error)})")
        who = f"Rank {', '.join(behind)}" if behind else "A rank"
        return RankLostError(f"{who} does not answer any more ({first_line(error)})")


@dataclass(eq=False)
class _Wait:
    """For other ranks: looks at the stop, and says after a minute what for."""

    team: Team
    what: str
    in_step: bool
    began: float = field(default_factory=time.monotonic, init=False)
    _looked: float = field(default=0.0, init=False)
    _lines: int = field(default=0, init=False)
    _stopped: float | None = field(default=None, init=False)

    def look(self) -> None:
        """Say a line where it is due; raise a RuntimeError where a stop has been asked for."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if now - self.began > LINE_SECONDS * (self._lines + 1):
            self._lines += 1
            self._report(now - self.began)
        if self._stopped is None and self._is_stopped():
            self._stopped = now
        patience = max(STOP_SECONDS, 2 * self.team.slowest if self.in_step else 0.0)
        if self._stopped is not None and now - self._stopped > patience:
            reason = self.team.stop.reason if self.team.stop else ""
            raise RuntimeError(f"no answer within {patience:.0f} s after the stop: {reason}")

    def _is_stopped(self) -> bool:
        """Whether somebody asked; before the first step, a time that is over does not count."""
        stop = self.team.stop
        return bool(stop) and (self.in_step or (stop is not None and stop.seconds_left() > 0))

    def _report(self, seconds: float) -> None:
        if self.team.rank > 1:
            return  # one line of rank 0, and one where rank 0 itself is late
        late = ", ".join(self.team.behind()) or "another one"
        limit = self.team.answer.total_seconds() if self.in_step else PREPARE_SECONDS
        self.team.say(
            f"rank {self.team.rank} waits for rank {late} to {self.what}: for {seconds / 60:.0f} of"
            f" {limit / 60:g} min"
        )


def _decoded(told: bytes | bytearray, kind: Any, rank: int) -> Any:
    """Return what a rank has told; raises RelayError where it is not of that type."""
    try:
        return msgspec.json.decode(told, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RelayError(
            f"Rank {rank} told something that is not understood here ({error}); install the same"
            " version of relaydet on all machines."
        ) from error


ALONE = Team()
"""A single process."""


def choose_ranks(asked: int | str, device: str, gpus: int, batch_size: int) -> tuple[int, str]:
    """How many ranks this machine starts, and why; one is this process itself.

    Args:
        asked: GPUS, a number or auto.
        device: what DEVICE asks for.
        gpus: how many GPUs torch can drive here.
        batch_size: images of an optimizer step.

    Raises:
        RelayError: there are not so many GPUs, or not so many images in a batch.
    """
    if asked == "auto":
        ranks = min(gpus, batch_size) if device in ("auto", "cuda") and gpus else 1
        why = f"a batch has no more than {batch_size} images" if ranks < gpus else "one a GPU"
        return ranks, why if ranks > 1 else ""
    if int(asked) < 1:
        raise RelayError(f"GPUS {asked}: take auto, or 1 and more.")
    if device != "cpu" and int(asked) > max(gpus, 1):
        raise RelayError(
            f"GPUS {asked}: torch can drive {gpus} here; take fewer, or set DEVICE to cpu for so"
            " many processes that share the cores."
        )
    refuse_small_batch(batch_size, int(asked))
    return int(asked), "as asked"


def refuse_small_batch(batch_size: int, ranks: int) -> None:
    """Raise a RelayError where some ranks would have nothing to do in any step."""
    if batch_size < ranks:
        raise RelayError(
            f"BATCH_SIZE {batch_size}: is smaller than the {ranks} ranks that share it; take fewer"
            " GPUS, or a larger batch in a new RUN."
        )


def await_sums(
    sums: Sequence[Any], seconds: float, look: Callable[[], None] = lambda: None
) -> None:
    """Wait until all are through with them, here and not on the device.

    NCCL's own `wait` makes the GPU wait and returns. Were a rank lost then, the step would be taken
    with half a sum, and no weights could be copied from a GPU that waits for ever.

    Args:
        sums: what `all_reduce` returned.
        seconds: how long to wait.
        look: called meanwhile; may raise.

    Raises:
        RuntimeError: they are not there in time.
    """
    until = time.monotonic() + seconds
    while not all(work.is_completed() for work in sums):
        if time.monotonic() > until:
            raise RuntimeError(f"no sum of the gradients within {seconds:g} s")
        look()
        time.sleep(_POLL_SECONDS)


def _channels_last(gradient: torch.Tensor) -> torch.Tensor:
    """A view in the one order that all ranks send: convolutions' as most devices keep theirs."""
    return gradient.permute(0, 2, 3, 1) if gradient.dim() == 4 else gradient


def _buckets(gradients: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """In order, by about BUCKET_BYTES."""
    buckets: list[list[torch.Tensor]] = [[]]
    size = 0
    for gradient in gradients:
        if size >= BUCKET_BYTES:
            buckets.append([])
            size = 0
        buckets[-1].append(gradient)
        size += gradient.numel() * gradient.element_size()
    return buckets


def first_line(error: Exception) -> str:
    """What an error says, without the place in gloo's source before it and advice behind it."""
    first = (str(error).strip() or "no reason").splitlines()[0]
    return re.sub(r"^\[\S*\]\s*", "", first).split(". ")[0].rstrip(".")
