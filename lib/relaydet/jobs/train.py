"""Train a detector, or carry on a run where it stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from relaydet.config import TrainConfig, check_name, parse_images
from relaydet.data.loader import Samples, training_batches, training_samples
from relaydet.data.order import BatchPlan, steps_per_epoch
from relaydet.data.saved import SavedDataset, load_dataset, open_sources
from relaydet.errors import RelayError
from relaydet.model import BuiltModel, build_model, recipe_of
from relaydet.runtime.device import Device, choose_device
from relaydet.runtime.limits import StopRequest, stop_on_signals
from relaydet.storage.store import open_store
from relaydet.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from relaydet.training.export import export_model
from relaydet.training.log import LOG_EVERY, log_line
from relaydet.training.loop import Step, build_optimizer, train_steps
from relaydet.training.run_files import LogLine, RunFiles
from relaydet.training.sampling import key_samplers
from relaydet.training.schedule import Schedule
from relaydet.training.settings import settle
from relaydet.viewing.charts import loss_chart
from relaydet.viewing.pictures import Picture, png
from relaydet.viewing.progress import bar, step_bar

LOG_SECONDS = 60


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended."""

    run: str
    state: str
    """done or paused."""
    step: int
    total_steps: int
    reason: str
    """Why it paused; empty when done."""
    log: list[LogLine]
    """The lines of log.jsonl."""
    where: str
    """The run's folder."""

    @property
    def pictures(self) -> dict[str, Picture]:
        """By name: the loss over the steps."""
        chart = loss_chart(self.log, f"Run {self.run}: {self.step} of {self.total_steps} steps")
        return {"loss": Picture(png(chart), f"Losses of run {self.run}.")}

    def __str__(self) -> str:
        if self.state == "done":
            return f"Run {self.run!r} is done: {self.step} steps. Everything is in {self.where}"
        return (
            f"Run {self.run!r} paused at step {self.step} of {self.total_steps} ({self.reason})."
            f" Run it again to go on; everything is in {self.where}"
        )


def train(config: TrainConfig, say: Callable[[str], None] = print) -> TrainResult:
    """Train until the end, until MAX_MINUTES are over or until asked to stop.

    Called again, with the same store and run name, it goes on from the last checkpoint and ends
    with the same weights as a run that was never interrupted.

    Args:
        config: what to train; on a resume, what is not given is taken from the run.
        say: takes each line that tells the user what was decided.

    Raises:
        RelayError: something in the configuration, the data or the store has to be mended.
    """
    check_name("RUN", config.run)
    if config.deterministic:
        # cuBLAS reads it when CUDA is first used, and refuses deterministic mode without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    store = open_store(config.store)
    device = choose_device(config.device, config.precision)
    files = RunFiles(store, config.run)
    config = settle(files.config(), config, device.device.type, say)
    saved = load_dataset(store, config.dataset)
    status = files.status()
    if status and status["state"] == "done":
        total = status["total_steps"]
        result = TrainResult(config.run, "done", total, total, "", files.log(), files.where)
        say(str(result))
        return result
    samples = _samples(saved, config)
    session = _start(files, config, device, saved, samples, say)
    result = session.go()
    say(str(result))
    return result


@dataclass
class _Session:
    """One session of a run, from the step where it starts to the step where it stops."""

    files: RunFiles
    config: TrainConfig
    device: Device
    saved: SavedDataset
    samples: Samples
    built: BuiltModel
    optimizer: torch.optim.Optimizer
    stop: StopRequest
    log: list[LogLine]
    step: int
    """Optimizer steps done."""
    saved_at: float = 0.0
    """When the last checkpoint was written, by the monotonic clock."""
    logged_at: float = 0.0
    """When the log was last written."""

    @property
    def epoch_steps(self) -> int:
        return steps_per_epoch(len(self.samples), self.config.batch_size)

    @property
    def total_steps(self) -> int:
        return self.epoch_steps * int(self.config.epochs or 0)

    def go(self) -> TrainResult:
        """Train, save, and export what came of it."""
        self._write_status("running")
        try:
            with stop_on_signals(self.stop):
                self._train()
        except torch.cuda.OutOfMemoryError as error:
            message = (
                f"Step {self.step}: the GPU's memory is full; set MICRO_BATCH below"
                f" {self.config.micro_batch or self.config.batch_size} or lower IMAGE_SIZE."
            )
            self._write_status("failed", message)
            raise RelayError(message) from error
        except BaseException as error:
            self._write_log()
            self._write_status("failed", str(error) or type(error).__name__)
            raise
        export_model(self.files.store, self.config, self.built, self.step)
        done = self.step == self.total_steps
        state, reason = ("done", "") if done else ("paused", str(self.stop.reason))
        self._write_log()
        self._write_status(state, reason)
        return TrainResult(
            self.config.run, state, self.step, self.total_steps, reason, self.log, self.files.where
        )

    def _train(self) -> None:
        self.saved_at = self.logged_at = time.monotonic()
        window: list[Step] = []
        with step_bar(f"training {self.config.run}", self.total_steps, self.step) as bar:
            for done in self._steps():
                self.step = done.step
                bar.update()
                window.append(done)
                must_save = self._must_save()
                if self.step % LOG_EVERY == 0 or must_save:
                    self.log.append(log_line(window, self.epoch_steps))
                    bar.set_postfix(loss=f"{self.log[-1]['loss']:.3f}", refresh=False)
                    window = []
                if time.monotonic() - self.logged_at >= LOG_SECONDS:
                    self._write_log()
                if must_save:
                    self._save()
                if self.stop:
                    break

    def _steps(self) -> Iterator[Step]:
        config, recipe = self.config, recipe_of(self.config.model)
        plan = BatchPlan(
            config.seed, self.samples.groups_M(), config.batch_size, self.step, self.total_steps
        )
        schedule = Schedule(
            kind=recipe.schedule,
            peak=float(config.learning_rate or 0),
            total_steps=self.total_steps,
            warmup_steps=min(recipe.warmup_steps, self.epoch_steps),
            milestones=recipe.milestones,
            gamma=recipe.gamma,
        )
        return train_steps(
            model=self.built.model,
            optimizer=self.optimizer,
            batches=training_batches(
                self.samples, plan, recipe.augmentation, _workers(config, self.device)
            ),
            position=key_samplers(self.built.model, config.seed),
            schedule=schedule,
            device=self.device,
            first_step=self.step,
            micro_batch=config.micro_batch or config.batch_size,
        )

    def _must_save(self) -> bool:
        due = time.monotonic() - self.saved_at >= 60 * self.config.checkpoint_minutes
        return due or self.step % self.epoch_steps == 0 or bool(self.stop)

    def _save(self) -> None:
        state = {"model": self.built.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        facts = {
            "dataset_sha256": self.saved.sha256,
            "frozen": self.built.frozen,
            "precision": str(self.device.dtype).removeprefix("torch."),
            "micro_batch": self.config.micro_batch or self.config.batch_size,
            "torch": str(torch.__version__),
        }
        save_checkpoint(self.files.store, self.config.run, self.step, state, facts)
        self.saved_at = time.monotonic()
        self._write_log()
        self._write_status("running")

    def _write_log(self) -> None:
        self.files.write_log(self.log)
        self.logged_at = time.monotonic()

    def _write_status(self, state: str, reason: str = "") -> None:
        epoch = self.step // self.epoch_steps
        self.files.write_status(state, self.step, self.total_steps, epoch, reason)


def _start(
    files: RunFiles,
    config: TrainConfig,
    device: Device,
    saved: SavedDataset,
    samples: Samples,
    say: Callable[[str], None],
) -> _Session:
    """Everything as it was at the newest checkpoint, or new."""
    checkpoint, skipped = load_newest(files.store, config.run)
    for sentence in skipped:
        say(sentence)
    if skipped and not checkpoint:
        raise RelayError(
            f"Run {config.run!r} has checkpoints and none can be used ({skipped[0]}); restore one"
            " from elsewhere, or start a new RUN."
        )
    torch.use_deterministic_algorithms(config.deterministic)
    built = _build(config, saved, checkpoint)
    built.model.to(device.device)
    built.model.to(memory_format=torch.channels_last)
    built.model.train()
    optimizer = build_optimizer(built.model, recipe_of(config.model))
    step = 0
    if checkpoint:
        built.model.load_state_dict(checkpoint.state["model"])
        optimizer.load_state_dict(checkpoint.state["optimizer"])
        step = checkpoint.step
        _tell_changes(checkpoint, config, device, built, say)
    log = [line for line in files.log() if line["step"] <= step]
    stop = StopRequest(config.max_minutes)
    session = _Session(files, config, device, saved, samples, built, optimizer, stop, log, step)
    files.write_config(config)
    _tell(session, say)
    return session


def _build(config: TrainConfig, saved: SavedDataset, checkpoint: Checkpoint | None) -> BuiltModel:
    """The detector with its first weights, or one that the checkpoint fits."""
    categories = [category.name for category in saved.dataset.categories]
    if checkpoint is None:
        return build_model(config.model, categories, config.weights, config.image_size, config.seed)
    if checkpoint.manifest["dataset_sha256"] != saved.sha256:
        raise RelayError(
            f"Dataset {config.dataset!r} has changed since run {config.run!r} was started; merge"
            " it again as it was, or start a new RUN."
        )
    frozen = checkpoint.manifest["frozen"]
    return build_model(config.model, categories, "none", config.image_size, frozen=frozen)


def _tell_changes(
    checkpoint: Checkpoint,
    config: TrainConfig,
    device: Device,
    built: BuiltModel,
    say: Callable[[str], None],
) -> None:
    """Name what is free to differ from the session before and yet reaches the weights."""
    before = checkpoint.manifest
    precision = str(device.dtype).removeprefix("torch.")
    if before["precision"] != precision:
        say(f"precision: {before['precision']} until now, {precision} from here on")
    micro_batch = config.micro_batch or config.batch_size
    if before["micro_batch"] != micro_batch and not built.frozen:
        say(
            f"micro-batch: {before['micro_batch']} until now, {micro_batch} from here on; this"
            " model's batch norms train on it, so the weights will differ from a run that kept it"
        )


def _tell(session: _Session, say: Callable[[str], None]) -> None:
    config, recipe = session.config, recipe_of(session.config.model)
    say(f"device: {session.device.name} ({session.device.reason})")
    say(str(session.built))
    if session.step == 0:
        say(str(session.built.weights_report))
    else:
        say(f"resuming at step {session.step} of {session.total_steps}")
    say(
        f"plan: {len(session.samples)} images, {config.epochs} epochs of {session.epoch_steps}"
        f" steps, batch {config.batch_size}, {recipe.optimizer}, learning rate"
        f" {config.learning_rate:g} ({recipe.schedule}), short side {config.image_size}"
    )


def _samples(saved: SavedDataset, config: TrainConfig) -> Samples:
    unknown = sorted(set(config.include) - set(saved.locations))
    if unknown:
        raise RelayError(
            f"INCLUDE: dataset {saved.name!r} has no source {unknown[0]!r}; it has"
            f" {', '.join(sorted(saved.locations))}."
        )
    folders = open_sources(saved, parse_images(config.images, saved.locations), config.include, bar)
    samples = training_samples(saved.dataset, folders, config.include)
    if not len(samples):
        raise RelayError(f"Dataset {saved.name!r} has no image to train on; check INCLUDE.")
    return samples


def _workers(config: TrainConfig, device: Device) -> int:
    """On a CPU the cores are needed for training; a GPU wants to be fed."""
    if config.workers is not None:
        return config.workers
    return 1 if device.device.type == "cpu" else 2
