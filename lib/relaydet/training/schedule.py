"""The learning rate: a pure function of the optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The warm-up starts at this fraction of the peak, as torchvision's reference training does.
_WARMUP_START = 1e-3


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to a peak, then steps down or a half cosine to zero."""

    kind: str
    """steps or cosine."""
    peak: float
    """Highest learning rate."""
    total_steps: int
    """Optimizer steps of the whole training."""
    warmup_steps: int
    """Steps until the peak is reached."""
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)
    """Fractions of the training at which `steps` multiplies the rate by gamma."""
    gamma: float = 0.1


def learning_rate(schedule: Schedule, step: int) -> float:
    """Learning rate of the given step, counted from 0."""
    warmth = 1.0
    if step < schedule.warmup_steps:
        warmth = _WARMUP_START + (1 - _WARMUP_START) * step / schedule.warmup_steps
    if schedule.kind == "cosine":
        return schedule.peak * warmth * 0.5 * (1 + math.cos(math.pi * step / schedule.total_steps))
    passed = sum(step >= round(m * schedule.total_steps) for m in schedule.milestones)
    return schedule.peak * warmth * schedule.gamma**passed
