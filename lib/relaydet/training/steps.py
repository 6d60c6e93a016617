"""The optimizer steps of a run from where it stands: order, schedule and detector put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from relaydet.config import TrainConfig
from relaydet.data.loader import Samples, training_batches
from relaydet.data.order import BatchPlan, steps_per_epoch
from relaydet.model import recipe_of
from relaydet.runtime.device import Device
from relaydet.runtime.stop import StopRequest
from relaydet.training.loop import Learner, Step, train_steps
from relaydet.training.micro_batch import has_synchronised_norms
from relaydet.training.restore import Restored
from relaydet.training.sampling import key_samplers
from relaydet.training.schedule import Schedule
from relaydet.training.team import Team


def run_steps(
    config: TrainConfig,
    samples: Samples,
    trained: Restored,
    device: Device,
    team: Team,
    first_step: int,
    say: Callable[[str], None],
) -> Iterator[Step]:
    """Train from a step on, to the end of the run; see `train_steps`.

    Args:
        config: what is trained, with everything decided.
        samples: the images to train on.
        trained: detector and optimizer as they are at `first_step`.
        device: where to compute.
        team: the ranks that share each batch.
        first_step: optimizer steps done.
        say: takes a sentence where memory ran out.
    """
    recipe = recipe_of(config.model)
    epoch_steps = steps_per_epoch(len(samples), config.batch_size)
    total_steps = epoch_steps * int(config.epochs or 0)
    plan = BatchPlan(
        config.seed,
        samples.groups_M(),
        config.batch_size,
        first_step,
        total_steps,
        team.rank,
        team.ranks,
    )
    schedule = Schedule(
        kind=recipe.schedule,
        peak=float(config.learning_rate or 0),
        total_steps=total_steps,
        warmup_steps=min(recipe.warmup_steps, epoch_steps),
        milestones=recipe.milestones,
        gamma=recipe.gamma,
    )
    learner = Learner(
        model=trained.built.model,
        optimizer=trained.optimizer,
        position=key_samplers(trained.built.model, config.seed),
        device=device,
        scaler=trained.scaler,
        team=team,
        even_passes=has_synchronised_norms(trained.built.model),
    )
    cuda = device.device.type == "cuda"
    batches = training_batches(
        samples, plan, recipe.augmentation, _workers(config, device), pin=cuda
    )
    return train_steps(
        learner=learner,
        batches=zip(plan.shares(), batches, strict=True),
        schedule=schedule,
        first_step=first_step,
        micro_batch=trained.micro_batch,
        say=say,
    )


def follow(steps: Iterator[Step], stop: StopRequest, team: Team) -> int | None:
    """What a rank does that does not lead: train, until the run ends or any rank asks to stop.

    Returns:
        Optimizer steps done; None where it did none.
    """
    step = None
    for done in steps:
        step = done.step
        if team.why_stop(stop.reason if stop else None):
            break
    return step


def _workers(config: TrainConfig, device: Device) -> int:
    """On a CPU the cores are needed for training; a GPU wants to be fed."""
    if config.workers is not None:
        return config.workers
    return 1 if device.device.type == "cpu" else 2
