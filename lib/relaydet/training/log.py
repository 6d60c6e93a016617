"""Lines of log.jsonl: means over the steps since the line before."""

from __future__ import annotations

from collections.abc import Sequence

from relaydet.training.loop import Step
from relaydet.training.run_files import LogLine, now

LOG_EVERY = 10


def log_line(steps: Sequence[Step], epoch_steps: int) -> LogLine:
    """One line for some steps in a row: mean losses and times, and the last learning rate."""
    count, seconds = len(steps), sum(step.seconds for step in steps)
    last = steps[-1]
    return {
        "step": last.step,
        "epoch": (last.step - 1) // epoch_steps,
        "loss": sum(step.loss for step in steps) / count,
        "losses": {name: sum(step.losses[name] for step in steps) / count for name in last.losses},
        "lr": last.lr,
        "seconds_per_step": seconds / count,
        "data_seconds_per_step": sum(step.data_seconds for step in steps) / count,
        "images_per_second": sum(step.images for step in steps) / seconds,
        "time": now(),
    }
