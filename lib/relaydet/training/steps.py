"""The optimizer steps of a run from where it stands: order, schedule and detector put together."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

from relaydet.config import TrainConfig
from relaydet.data.loader import Samples, Wait, training_batches
from relaydet.data.order import BatchPlan, steps_per_epoch
from relaydet.errors import RankLostError, StopError
from relaydet.model import recipe_of
from relaydet.runtime.device import Device
from relaydet.runtime.stop import StopRequest
from relaydet.training.loop import Learner, Step, Taken, train_steps
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
    stop: StopRequest | None = None,
    taken: Taken | None = None,
) -> Generator[Step, None, None]:
    """Train from a step on, to the end of the run; see `train_steps`.

    Args:
        config: what is trained, with everything decided.
        samples: the images to train on.
        trained: detector and optimizer as they are at `first_step`.
        device: where to compute.
        team: the ranks that share each batch.
        first_step: optimizer steps done.
        say: takes a sentence where memory ran out, or images do not come.
        stop: ends a wait for images.
        taken: is kept at the step that the weights are of.

    Raises:
        StopError: a stop was asked for while images were waited for.
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
        samples,
        plan,
        recipe.augmentation,
        _workers(config, device),
        pin=cuda,
        wait=Wait(stop, say),
    )
    # Closed here: an error's traceback would keep the workers.
    with closing(batches):
        yield from train_steps(
            learner=learner,
            batches=zip(plan.shares(), batches, strict=True),
            schedule=schedule,
            first_step=first_step,
            micro_batch=trained.micro_batch,
            say=say,
            taken=taken,
        )


def follow(steps: Generator[Step, None, None], stop: StopRequest, team: Team) -> int | None:
    """What a rank does that does not lead: train, until the run ends or any rank asks to stop.

    Returns:
        Optimizer steps done; None where it did none.
    """
    step = None
    with closing(steps):
        try:
            for done in steps:
                step = done.step
                if team.why_stop(stop.reason if stop else None):
                    break
        except StopError:
            pass  # the others learn of the stop as this one does, or lose this rank
        except RankLostError:
            if stop.reason is None:
                raise  # else another rank has stopped in the midst of a step
    return step


def _workers(config: TrainConfig, device: Device) -> int:
    """On a CPU the cores are needed for training; a GPU wants to be fed."""
    if config.workers is not None:
        return config.workers
    return 1 if device.device.type == "cpu" else 2
