"""How long an optimizer step takes here: warmed up, with the loader's time apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from relaydet.config import TrainConfig
from relaydet.data.loader import Samples
from relaydet.data.order import share_of, steps_per_epoch
from relaydet.model import build_model
from relaydet.runtime.device import Device
from relaydet.runtime.memory import give_back
from relaydet.runtime.stop import StopRequest
from relaydet.training.loop import Step
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.restore import Restored, equip
from relaydet.training.steps import run_steps
from relaydet.training.team import Team

WARM_UP = 3
"""Steps before the clock counts: libraries load, buffers grow, kernels are chosen."""
_HARMLESS_RATE = 1e-6


@dataclass(frozen=True)
class Speed:
    """Time of an optimizer step, in seconds."""

    seconds_per_batch: float
    """Median."""
    quartiles: tuple[float, float]
    data_seconds: float
    """Of it, spent waiting for the loader; median."""
    images_per_second: float
    """By the median."""
    peak_memory: int | None
    """Bytes at most on one GPU; None where it cannot be told."""
    micro_batch: int
    """Images per forward pass on each GPU."""
    steps: int
    """Steps that were timed."""


def measure_speed(
    config: TrainConfig,
    samples: Samples,
    device: Device,
    team: Team,
    steps: int,
    bar: Any,
    stop: StopRequest,
    say: Callable[[str], None],
) -> Speed | None:
    """Train a new detector for some steps, as a run does, and time them.

    The losses are read in every step, which waits for the device: its clock is ours.

    Args:
        config: model, image size, batch size and workers, with everything decided.
        samples: images, used over and over.
        device: where to compute.
        team: the ranks that share each batch.
        steps: how many to time.
        bar: is moved on after every step.
        stop: may ask to give up.
        say: takes a sentence where memory ran out.

    Returns:
        None where it was asked to stop.
    """
    per_epoch = steps_per_epoch(len(samples), config.batch_size)
    epochs = -(-(WARM_UP + steps) // per_epoch)
    endless = replace(config, epochs=epochs, learning_rate=_HARMLESS_RATE)
    trained = _new(endless, device, team)
    if device.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device.device)
    timed: list[Step] = []
    running = run_steps(endless, samples, trained, device, team, 0, say)
    for step in islice(running, WARM_UP + steps):
        bar.update()
        if step.step > WARM_UP:
            timed.append(step)
        if team.why_stop(stop.reason if stop else None):
            return None
    peak = torch.cuda.max_memory_allocated(device.device) if device.device.type == "cuda" else 0
    peak = int(team.largest([peak])[0])
    micro_batch = trained.micro_batch.size
    del running, trained
    give_back(device.device)
    return _summed_up(timed, config.batch_size, peak, micro_batch)


def _new(config: TrainConfig, device: Device, team: Team) -> Restored:
    built = build_model(config.model, ["object"], "none", config.image_size)
    optimizer, scaler = equip(built, device)
    micro_batch = MicroBatch(share_of(config.batch_size, 0, team.ranks).most)
    return Restored(built, optimizer, scaler, micro_batch)


def _summed_up(steps: list[Step], batch_size: int, peak: int, micro_batch: int) -> Speed:
    seconds = [step.seconds for step in steps]
    low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
    return Speed(
        seconds_per_batch=median,
        quartiles=(low, high),
        data_seconds=float(np.median([step.data_seconds for step in steps])),
        images_per_second=batch_size / median,
        peak_memory=peak or None,
        micro_batch=micro_batch,
        steps=len(steps),
    )
