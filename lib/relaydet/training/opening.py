"""What a session says before its first step, and of the place that it wrote to."""

from __future__ import annotations

from collections.abc import Callable

from relaydet.data.order import share_of
from relaydet.model import recipe_of
from relaydet.training.resume import Start
from relaydet.training.session import Session


def tell_plan(session: Session, start: Start, say: Callable[[str], None]) -> None:
    """Say what was decided: device, ranks, runtime, model, weights, plan and time."""
    config, recipe = session.config, recipe_of(session.config.model)
    say(f"device: {session.device.name} ({session.device.reason})")
    if session.device.warning:
        say(f"WARNING: {session.device.warning}; {session.device.remedy}")
    if session.team.ranks > 1:
        most = share_of(config.batch_size, 0, session.team.ranks).most
        nodes = session.team.nodes
        where = "this machine" if nodes == 1 else f"{nodes} machines"
        say(
            f"ranks: {session.team.ranks} on {where}, each with up to {most} of a batch's"
            f" {config.batch_size} images"
        )
    say(f"runtime: {session.runtime.name} ({session.runtime.reason})")
    say(str(session.trained.built))
    if start.checkpoint:
        say(f"resuming at step {session.step} of {session.total_steps}")
    else:
        say(str(session.trained.built.weights_report))
    say(
        f"plan: {len(session.samples)} images, {config.epochs} epochs of {session.epoch_steps}"
        f" steps, batch {config.batch_size}, {recipe.optimizer}, learning rate"
        f" {config.learning_rate:g} ({recipe.schedule}), short side {config.image_size}"
    )
    if session.stop.deadline:
        left = session.stop.seconds_left() / 60
        say(f"time: {left:.0f} min in this session ({session.stop.deadline.reason})")
