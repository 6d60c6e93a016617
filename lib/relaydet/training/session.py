"""One session of a run: from the step where it starts to the step where it stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

import relaydet
from relaydet.config import TrainConfig, public
from relaydet.data.loader import Samples
from relaydet.data.order import steps_per_epoch
from relaydet.errors import LeaseLostError, RankLostError, RelayError, StopError, StoreError
from relaydet.runtime.detect import Runtime
from relaydet.runtime.device import Device
from relaydet.runtime.memory import is_out_of_memory
from relaydet.runtime.stop import LOOK_SECONDS, StopRequest
from relaydet.training.export import export_model
from relaydet.training.interval import SHORTEST_SECONDS, choose_interval
from relaydet.training.log import LOG_EVERY, log_line
from relaydet.training.loop import Step, Taken
from relaydet.training.outlook import Outlook, duration, look_ahead
from relaydet.training.restore import Restored
from relaydet.training.run_files import LogLine, RunFiles
from relaydet.training.saver import Saver
from relaydet.training.steps import run_steps
from relaydet.training.team import Team

LOG_SECONDS = 60.0
FINISH_SECONDS = 600.0
"""How long the end of a session waits for a store that is away."""
LEAST_FINISH_SECONDS = 30.0
EXPORT_SECONDS = 10.0
"""Between two tries to export the weights to a store that is away."""
INTERRUPTED_SECONDS = 2.0
RESERVE_SECONDS = 5.0
"""Kept free before a deadline besides what saving takes."""


@dataclass(frozen=True)
class Ended:
    """How a session ended."""

    state: str
    """done or paused."""
    reason: str
    """Why it paused; empty when done."""
    lost: bool
    """Another session has taken the run over."""
    outlook: Outlook


class _Bar:
    """A bar for the steps; one that cannot be shown is no reason to stop training."""

    def __init__(
        self, open_bar: Callable[[str, int, int], Any], label: str, total: int, done: int
    ) -> None:
        self._bar: Any = None
        with self._harmless():
            self._bar = open_bar(label, total, done).__enter__()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_error: object) -> None:
        with self._harmless():
            if self._bar is not None:
                self._bar.__exit__(None, None, None)

    def update(self) -> None:
        """Show one more step."""
        with self._harmless():
            if self._bar is not None:
                self._bar.update()

    def show_loss(self, loss: float) -> None:
        """Show a loss beside the bar."""
        with self._harmless():
            if self._bar is not None:
                self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._bar = None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass
class Session:
    """Everything that a session trains with; `go` does it."""

    files: RunFiles
    """Reads the run's files, and writes them through the saver."""
    saver: Saver
    config: TrainConfig
    device: Device
    runtime: Runtime
    dataset_sha256: str
    samples: Samples
    trained: Restored
    stop: StopRequest
    log: list[LogLine]
    step: int
    """Optimizer steps done."""
    in_store: bool
    """Whether the store has the checkpoint of that step."""
    bar: Callable[[str, int, int], Any]
    """Opens a bar for the steps: a label, the total and the steps already done."""
    say: Callable[[str], None]
    team: Team

    def __post_init__(self) -> None:
        self.first_step = self.step
        self.taken = Taken(self.step)
        self.saved_step = self.step if self.in_store else None
        self.started = self.saved_at = self.logged_at = time.monotonic()
        asked = self.config.checkpoint_minutes
        self.interval = SHORTEST_SECONDS if asked is None else 60 * asked
        self.interval_chosen = asked is not None

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps of one epoch."""
        return steps_per_epoch(len(self.samples), self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epoch_steps * int(self.config.epochs or 0)

    def outlook(self) -> Outlook:
        """What is left, by the speed of this session."""
        seconds = time.monotonic() - self.started
        return look_ahead(self.first_step, self.step, self.total_steps, seconds)

    def go(self) -> Ended:
        """Train until the end or until asked to stop, save, and export what came of it.

        Raises:
            RelayError: a loss is not finite, the GPU's memory is too small, or the store stayed
                away; what to do is said.
        """
        try:
            self._tell_state("running")
            if not self.in_store:
                self._save()  # the first weights are safe, and it is known what a save costs
            self._train()
        except (StopError, RankLostError) as error:
            self._rescue()
            if self.stop.reason is None:
                # torchrun kills this rank 30 s after the one that was lost.
                self._leave("paused", str(error), LEAST_FINISH_SECONDS)
                raise
        except KeyboardInterrupt:
            self._rescue()
            self._leave("paused", f"interrupted at step {self.step}", INTERRUPTED_SECONDS)
            raise
        except BaseException as error:
            told = self._explained(error)
            self._rescue()
            self._leave("failed", _first_line(told), LEAST_FINISH_SECONDS)
            if told is error:
                raise
            raise told from error
        return self._end()

    def _explained(self, error: BaseException) -> BaseException:
        """Return the error, or one that says what to do about it."""
        if not is_out_of_memory(error):
            return error
        return RelayError(
            f"Step {self.step}: the device's memory is full; set MICRO_BATCH below"
            f" {self.trained.micro_batch.size}, lower IMAGE_SIZE, or take a smaller MODEL."
        )

    def _rescue(self) -> None:
        """Save the last whole step, whatever ended training.

        Why that ended counts more than why this cannot be done, which is only said.
        """
        if self.taken.step is None:
            self.say(
                f"step {self.step + 1}: ended while it was applied, so the weights are of no step;"
                f" what came after step {self.saved_step or 0} is lost"
            )
            return
        self.step = self.taken.step  # this one may have been left before it could count it
        try:
            self._save(at_once=True)
        except Exception as error:
            self.say(f"step {self.step}: could not be saved ({_first_line(error)})")

    def _leave(self, state: str, reason: str, seconds: float) -> None:
        """Write the state of a session that an error ends, and wait for the store for a while."""
        try:
            self._tell_state(state, reason)
            self.saver.finish(seconds)
        except Exception as error:
            self.say(f"the status could not be written ({_first_line(error)})")

    def _train(self) -> None:
        window: list[Step] = []
        label = f"training {self.config.run}"
        with (
            _Bar(self.bar, label, self.total_steps, self.step) as bar,
            closing(self._steps()) as steps,
        ):
            for done in steps:
                self.step = done.step
                bar.update()
                window.append(done)
                self._reserve(done.seconds)
                if self.saver.lost:
                    self.stop.ask(self.saver.lost)
                why = self.team.why_stop(self.stop.reason if self.stop else None)
                if why:
                    self.stop.ask(why)
                must_save = self._must_save() or bool(why)
                if self.step % LOG_EVERY == 0 or must_save:
                    self.log.append(log_line(window, self.epoch_steps))
                    bar.show_loss(self.log[-1]["loss"])
                    window = []
                if must_save:
                    self._save()
                elif time.monotonic() - self.logged_at >= LOG_SECONDS:
                    self._tell_state("running")
                if why:
                    break

    def _steps(self) -> Generator[Step, None, None]:
        return run_steps(
            self.config,
            self.samples,
            self.trained,
            self.device,
            self.team,
            self.step,
            self.say,
            self.stop,
            self.taken,
        )

    def _must_save(self) -> bool:
        if not self.interval_chosen and self.saver.published is not None:
            self._choose_interval()
        due = time.monotonic() - self.saved_at >= self.interval
        return due or self.step % self.epoch_steps == 0

    def _choose_interval(self) -> None:
        self.interval, reason = choose_interval(
            self.saver.pack_seconds, self.saver.carry_seconds, self.runtime
        )
        self.say(f"checkpoints: every {duration(self.interval)} ({reason}), and after each epoch")
        self.interval_chosen = True

    def _reserve(self, step_seconds: float) -> None:
        """Keep so much time free before a deadline as saving takes thrice: the export is one."""
        save = self.saver.pack_seconds + self.saver.carry_seconds
        self.stop.reserve = 3 * save + 2 * step_seconds + RESERVE_SECONDS

    def _save(self, at_once: bool = False) -> None:
        if self.saved_step != self.step:
            state = {
                "model": self.trained.built.model.state_dict(),
                "optimizer": self.trained.optimizer.state_dict(),
            }
            if self.trained.scaler is not None:
                state["scaler"] = self.trained.scaler.state_dict()
            if self.saver.save(self.step, state, self._facts(), at_once):
                self.saved_step = self.step
        self.saved_at = time.monotonic()
        self._tell_state("running")

    def _facts(self) -> dict[str, Any]:
        return {
            "relaydet": relaydet.__version__,
            "dataset_sha256": self.dataset_sha256,
            "config": asdict(public(self.config)),
            "frozen": self.trained.built.frozen,
            "precision": str(self.device.dtype).removeprefix("torch."),
            "micro_batch": self.trained.micro_batch.size,
            "torch": str(torch.__version__),
            "device": self.device.name,
            "threads": torch.get_num_threads(),
            "plain": not self.device.quick,
            "ranks": self.team.ranks,
        }

    def _tell_state(self, state: str, reason: str = "") -> None:
        self.files.write_log(self.log)
        epoch = self.step // self.epoch_steps
        self.files.write_status(state, self.outlook(), epoch, reason)
        self.logged_at = time.monotonic()

    def _end(self) -> Ended:
        """Bring everything into the store: the checkpoint, then the weights, then the status."""
        done = self.step >= self.total_steps
        reason = "" if done else str(self.stop.reason)
        if not done and self.saved_step != self.step:
            reason += f"; what came after step {self.saved_step or 0} could not be saved"
        until = time.monotonic() + self._patience()
        try:
            self._finish(until)
            if self.saver.dropped == self.step:
                self.saved_step = None
                self._save(at_once=True)  # the weights are still here
                self._finish(until)
            self._export(until)
            self._tell_state("done" if done else "paused", reason)
            self._finish(until)
        except LeaseLostError as error:
            return Ended("paused", str(error), True, self.outlook())
        return Ended("done" if done else "paused", reason, False, self.outlook())

    def _finish(self, until: float) -> None:
        seconds = until - time.monotonic()
        if not self.saver.finish(seconds, lambda: self.stop.signalled):
            self._raise_unsaved()

    def _raise_unsaved(self) -> None:
        if self.saver.lost:
            raise LeaseLostError(self.saver.lost)
        rest = f"What is missing there is kept in {self.saver.folder}; run again on this machine to"
        rest += " carry it over and go on."
        if self.saver.kept_in() != str(self.saver.folder):
            rest = "This machine's disk could not keep it either: what came after step"
            rest += f" {self.saver.published or self.first_step} is lost."
        raise StoreError(
            f"Run {self.config.run!r} stopped at step {self.step}, and the store did not come back"
            f" in time: {self.saver.trouble or 'it is too slow.'} {rest}"
        )

    def _export(self, until: float) -> None:
        """Write the weights for others; a store that is away for a moment is waited for."""
        while True:
            try:
                export_model(self.files.store, self.config, self.trained.built, self.step)
                return
            except StoreError as error:
                if time.monotonic() + 1 > until:
                    raise
                self.say(f"{str(error).rstrip('.')}; trying again")
                again = time.monotonic() + EXPORT_SECONDS
                while time.monotonic() < min(again, until) and not self.stop.signalled:
                    time.sleep(LOOK_SECONDS)
                if self.stop.signalled:
                    self.say("the weights are not exported; run again to have them")
                    return

    def _patience(self) -> float:
        """Seconds to wait for the store at the end: until the runtime's limit, where there is one.

        MAX_MINUTES is no wall to run into: past it, saving goes before punctuality.
        """
        if self.stop.deadline is None or self.config.max_minutes is not None:
            return FINISH_SECONDS
        left = self.stop.deadline.at - time.monotonic()
        return min(FINISH_SECONDS, max(left, LEAST_FINISH_SECONDS))
