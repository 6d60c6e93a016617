"""Train a detector, or carry on a run where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from relaydet.config import TrainConfig, check_name
from relaydet.data.loader import Samples
from relaydet.data.order import steps_per_epoch
from relaydet.data.saved import SavedDataset
from relaydet.errors import RankLostError, RelayError
from relaydet.model import BuiltModel
from relaydet.runtime.auto_store import find_store, tell_drive
from relaydet.runtime.detect import Runtime, detect
from relaydet.runtime.device import Device, devices_to_use
from relaydet.runtime.limits import find_deadline
from relaydet.runtime.stop import (
    StopRequest,
    stop_on_signals,
    stop_without_parent,
    unless_stopped,
)
from relaydet.runtime.torch_state import own_torch_state
from relaydet.storage.cache import check_cache, tell_cache
from relaydet.storage.fenced import Fenced
from relaydet.storage.lease import Lease, acquire
from relaydet.storage.store import Store
from relaydet.training.checkpoint import Keep, Lineage, folder_of, newest_manifest
from relaydet.training.export import is_exported
from relaydet.training.found import dataset_of, legible, places_of, samples_of, started_config
from relaydet.training.launch import launch
from relaydet.training.meeting import is_rank, joined
from relaydet.training.members import (
    agree,
    device_of,
    own_config,
    plan_of,
    same_detector,
    share_plan,
)
from relaydet.training.opening import tell_plan
from relaydet.training.outlook import Outlook, look_ahead
from relaydet.training.restore import build, restore
from relaydet.training.resume import (
    Start,
    find_start,
    forget_unsent,
    highest_token,
    leave_alone,
    unsent_folder,
)
from relaydet.training.run_files import LogLine, RunFiles, as_json
from relaydet.training.saver import Saver
from relaydet.training.session import FINISH_SECONDS, Ended, Session
from relaydet.training.settings import refuse_nonsense, settle
from relaydet.training.steps import follow, run_steps
from relaydet.training.team import Team, choose_ranks, refuse_small_batch
from relaydet.viewing.pictures import Picture, png
from relaydet.viewing.progress import bar, step_bar

FOLLOW_SECONDS = 60.0
"""How long a rank that has nothing to save lives on without torchrun."""


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended."""

    run: str
    state: str
    """done or paused."""
    reason: str
    """Why it paused; empty when done."""
    lost: bool
    """Another session has taken the run over; what its files say is that one's."""
    outlook: Outlook
    """How far the run is, and what is left."""
    log: list[LogLine]
    """The lines of log.jsonl."""
    where: str
    """The run's folder."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.outlook.step

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.outlook.total_steps

    @property
    def pictures(self) -> dict[str, Picture]:
        """By name: the loss over the steps."""
        # It imports matplotlib, a second that the first step need not wait.
        from relaydet.viewing.charts import loss_chart

        chart = loss_chart(self.log, f"Run {self.run}: {self.step} of {self.total_steps} steps")
        return {"loss": Picture(png(chart), f"Losses of run {self.run}.")}

    def __str__(self) -> str:
        if self.state == "done":
            return f"Run {self.run!r} is done: {self.step} steps. Everything is in {self.where}"
        if self.lost:
            return (
                f"This session stopped at {self.outlook.step} of {self.outlook.total_steps} steps:"
                f" {self.reason}. `relaydet status` tells how far the run is in {self.where}"
            )
        return (
            f"Run {self.run!r} paused at {self.outlook} ({self.reason}). Run it again to go on;"
            f" everything is in {self.where}"
        )


def train(
    config: TrainConfig, say: Callable[[str], None] = print, patient: bool = True
) -> TrainResult:
    """Train until the end, until the time is over or until asked to stop.

    Called again, with the same run name, it goes on from the last checkpoint and ends with the same
    weights as a run that was never interrupted. Where several GPUs are to share the work, each gets
    a process of its own. Under torchrun, this process is one of its ranks.

    Args:
        config: what to train; on a resume, what is not given is taken from the run.
        say: takes each line that tells the user what was decided.
        patient: where another session holds the run, wait to see whether it is still alive.

    Raises:
        LeaseHeldError: another session is training the run.
        RankLostError: one of several processes died, or does not answer.
        RelayError: something in the configuration, the data or the store has to be mended.
    """
    refuse_nonsense(config)
    if is_rank():
        return train_here(config, say, patient)
    gpus = len(devices_to_use(config.device))
    ranks, why = choose_ranks(config.gpus, config.device, gpus, config.batch_size)
    if ranks == 1:
        return train_here(config, say, patient)
    check_name("RUN", config.run)
    check_cache()  # the ranks' own messages and checkpoints are kept there
    say(f"ranks: {ranks} processes ({why})")
    config = replace(config, store=find_store(config.store, say).location)
    try:
        asked = {"job": "train", "config": config, "patient": patient}
        told = launch(asked, config.run, ranks, config.max_restarts, say, step_bar)
    except (RankLostError, KeyboardInterrupt) as error:
        _tell_paused(config, str(error) or "interrupted")
        raise
    return msgspec.convert(told, TrainResult)


def _tell_paused(config: TrainConfig, reason: str) -> None:
    """Where rank 0 died, its status is still that of a run in training: mend that.

    Why the run stopped is more than why this cannot be written, where it cannot.
    """
    with suppress(RelayError):
        store = find_store(config.store, _silent)
        lease = acquire(store, config.run, detect().name, say=_silent, patient=False)
        try:
            status = RunFiles(store, config.run).status()
            if status and status.get("state") == "running":
                told = {**status, "state": "paused", "reason": reason}
                Fenced(store, lease).write(f"runs/{config.run}/status.json", as_json(told))
        finally:
            lease.release()


def train_here(
    config: TrainConfig,
    say: Callable[[str], None] = print,
    patient: bool = True,
    open_bar: Callable[[str, int, int], Any] = step_bar,
    stop: StopRequest | None = None,
) -> TrainResult:
    """This process's part of `train`: all of it, or that of one rank.

    Args:
        config: as `train` has it.
        say: as `train` has it; only rank 0 uses it.
        patient: as `train` has it.
        open_bar: opens a bar for the steps: a label, the total and the steps already done.
        stop: may ask for a pause from elsewhere.
    """
    check_name("RUN", config.run)
    stop, say = StopRequest() if stop is None else stop, _harmless(say)
    meeting = joined(config.answer_minutes, stop=stop, say=say)
    with own_torch_state(config.deterministic), meeting as team:
        refuse_small_batch(config.batch_size, team.ranks)
        runtime = detect()
        stop.deadline = find_deadline(runtime, config.max_minutes)
        if team.ranks > 1:
            stop_without_parent(stop, FINISH_SECONDS if team.leads else FOLLOW_SECONDS)
        if not team.leads:
            return _train_along(team, config, runtime, stop)
        result = _train(team, config, runtime, stop, say, patient, open_bar)
    say(str(result))
    return result


def _train(
    team: Team,
    config: TrainConfig,
    runtime: Runtime,
    stop: StopRequest,
    say: Callable[[str], None],
    patient: bool,
    open_bar: Callable[[str, int, int], Any],
) -> TrainResult:
    """The part of the process that holds the lease, writes and talks."""
    check_cache()  # checkpoints are packed there on their way to the store
    tell_cache(say)
    places = places_of(config, runtime, say)
    device = device_of(team, config, runtime)
    started = next((c for place in places if (c := started_config(place, config.run, say))), None)
    config = settle(started, config, device.device.type, say)
    refuse_small_batch(config.batch_size, team.ranks)
    saved = dataset_of(places, config)
    samples = samples_of(saved, config, bar)
    for line in samples.left_out:
        say(line)
    finished = _finished(places[0], config, saved, say)
    if finished:
        share_plan(team, None)
        return finished
    # Mistakes in MODEL, WEIGHTS or IMAGE_SIZE come out here, before anything is written.
    new = None if started else build(config, saved, None)
    leave_alone(places[0], config.run, unsent_folder(places[0], config.run), say)
    known = highest_token(places[0], config.run, unsent_folder(places[0], config.run))
    ready = _Ready(team, config, device, runtime, saved, samples, new, stop)
    # From here to the end of the lease no signal ends the process: it may watch another session's
    # lease for minutes, and giving its own back takes a moment.
    with stop_on_signals(stop):
        lease = acquire(
            places[0],
            config.run,
            runtime.name,
            config.take_over,
            say=say,
            above=known,
            patient=patient,
            stop=lambda: stop,
        )
        try:
            # Somebody else may have come to its end between that look and the lease.
            finished = _finished(places[0], config, saved, say)
            if finished:
                share_plan(team, None)
                return finished
            ended, log = _train_under(lease, places, ready, say, open_bar)
        finally:
            lease.release()
    tell_drive(places[0], say)
    where = places[0].describe(f"runs/{config.run}")
    return _result(config, ended, log, where)


def _train_along(
    team: Team, asked: TrainConfig, runtime: Runtime, stop: StopRequest
) -> TrainResult:
    """The part of every other process: to train what the first one has found."""
    device = device_of(team, asked, runtime)
    plan = share_plan(team, None)
    if plan is None:
        outlook = look_ahead(0, 0, 0, 0.0)
        return TrainResult(asked.run, "done", "", False, outlook, [], "")
    config = own_config(plan, asked)
    places = places_of(config, runtime, _silent)
    saved = dataset_of(places, config)
    samples = samples_of(saved, config, bar)
    agree(team, saved, len(samples), device)
    new = same_detector(plan, saved)
    trained = restore(plan.checkpoint, new, config, device, saved, _silent, team)
    step = plan.checkpoint.step if plan.checkpoint else 0
    with stop_on_signals(stop):
        done = follow(
            run_steps(config, samples, trained, device, team, step, _silent, stop), stop, team
        )
    total = steps_per_epoch(len(samples), config.batch_size) * int(config.epochs or 0)
    outlook = look_ahead(step, done or step, total, 0.0)
    state = "done" if outlook.step == total else "paused"
    return TrainResult(config.run, state, str(stop.reason or ""), False, outlook, [], "")


def _harmless(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return what says a line where that can be done: a screen that is gone ends no training."""

    def tell(line: str) -> None:
        with suppress(Exception):
            say(line)

    return tell


def _silent(_line: str) -> None:
    """What rank 0 says is enough."""


def _finished(
    store: Store, config: TrainConfig, saved: SavedDataset, say: Callable[[str], None]
) -> TrainResult | None:
    """What there is to say of a run that is done; None while there is something to train.

    The number of steps is the run's own: the dataset may be another one by now.
    """
    files = RunFiles(store, config.run)
    status = legible(files.status, None, say)
    if not status or status["state"] != "done" or status["step"] < status["total_steps"]:
        return None
    if status["epoch"] < int(config.epochs or 0):
        return None
    total = status["total_steps"]
    if not is_exported(store, config.run, total):
        say(
            f"run {config.run!r} is done by its status, but its weights are not whole or of another"
            " step: going on from its newest checkpoint"
        )
        return None
    sealed = newest_manifest(store, config.run) or {}
    if sealed.get("dataset_sha256", saved.sha256) != saved.sha256:
        say(
            f"WARNING: dataset {config.dataset!r} has changed since run {config.run!r} was started,"
            " and the run is done on it as it was; start a new RUN for the changed one"
        )
    outlook = look_ahead(0, total, total, 0.0)
    log: list[LogLine] = legible(lambda: files.log(say), [], say)
    return TrainResult(config.run, "done", "", False, outlook, log, files.where)


@dataclass(frozen=True)
class _Ready:
    """What is decided before the lease is taken."""

    team: Team
    config: TrainConfig
    device: Device
    runtime: Runtime
    saved: SavedDataset
    samples: Samples
    new: BuiltModel | None
    stop: StopRequest


def _train_under(
    lease: Lease,
    places: Sequence[Store],
    ready: _Ready,
    say: Callable[[str], None],
    open_bar: Callable[[str, int, int], Any],
) -> tuple[Ended, list[LogLine]]:
    """Train while the lease is held."""
    config, team, saved, device = ready.config, ready.team, ready.saved, ready.device
    lease.when_lost = ready.stop.ask
    store = Fenced(places[0], lease)
    unsent = unsent_folder(store, config.run)

    def read() -> tuple[Start, list[LogLine]]:
        logs = [RunFiles(place, config.run).log(say) for place in places]
        start = find_start(store, config.run, unsent, places[1:], config, say)
        return start, max(logs, key=len)  # the others are what it was a while ago

    where = store.describe(f"runs/{config.run}")
    start, log = unless_stopped(read, ready.stop, f"checkpoints of {where} to be read", say)
    share_plan(team, plan_of(config, start.checkpoint, ready.new))
    agree(team, saved, len(ready.samples), device)
    trained = restore(start.checkpoint, ready.new, config, device, saved, say, team)
    step = start.checkpoint.step if start.checkpoint else 0
    token = lease.holder.token
    saver = Saver(
        store,
        config.run,
        unsent / str(token) / folder_of(config.run),
        Lineage(token, lease.holder.owner, step),
        lambda: _keep(store, config),
        say,
        lambda: forget_unsent(unsent, token - 1),
        stop=lambda: ready.stop,
    )
    files = RunFiles(store, config.run, saver.write)
    session = Session(
        files=files,
        saver=saver,
        config=config,
        device=device,
        runtime=ready.runtime,
        dataset_sha256=saved.sha256,
        samples=ready.samples,
        trained=trained,
        stop=ready.stop,
        log=[line for line in log if line["step"] <= step],
        step=step,
        in_store=start.in_store,
        bar=open_bar,
        say=say,
        team=team,
    )
    files.write_config(config)
    tell_plan(session, start, say)
    try:
        ended = session.go()
        if not saver.lost:
            forget_unsent(unsent, token)
    finally:
        saver.close()
    return ended, session.log


def _result(config: TrainConfig, ended: Ended, log: list[LogLine], where: str) -> TrainResult:
    return TrainResult(config.run, ended.state, ended.reason, ended.lost, ended.outlook, log, where)


def _keep(store: Store, config: TrainConfig) -> Keep:
    best = RunFiles(store, config.run).best()
    return Keep(config.keep_last, best.step if best else None, 1e9 * config.keep_gigabytes)
